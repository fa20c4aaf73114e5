#include "model/linear_gelu.h"

#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/simd.h"
#include "model/linear_rows.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The least that a thread is given, in elements.
constexpr int64_t kGrain = 1 << 14;

// eˣ for −87 ≤ x ≤ 0; what lies below counts as −87. After Cephes' expf: 2ⁿ·eʳ, |r| ≤ ln 2 / 2.
inline float ExpOfNegative(float x) {
  constexpr float kRoundsToInteger = 0x1.8p23F;
  x = x < -87.0F ? -87.0F : x;
  const float shifted = x * 1.44269504F + kRoundsToInteger;
  const float n = shifted - kRoundsToInteger;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float y = 1.9875691500e-4F;
  y = y * r + 1.3981999507e-3F;
  y = y * r + 8.3334519073e-3F;
  y = y * r + 4.1665795894e-2F;
  y = y * r + 1.6666665459e-1F;
  y = y * r + 5.0000001201e-1F;
  y = (y * r) * r + r + 1.0F;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) << 23;
  return std::bit_cast<float>(std::bit_cast<int32_t>(y) + exponent);
}

struct Gelu {
  float value;
  float derivative;
};

// Φ(−a) = e^(−a²/2)·t·P(t), t = 1/(1 + 0.35·a), for a ≥ 0; P fitted to a ≤ 14, where the relative
// error is at most 3.3e-8.
inline Gelu GeluOf(float u) {
  const float a = u < 0 ? -u : u;
  const float t = 1.0F / (1.0F + 0.35F * a);
  const float exp = ExpOfNegative(-0.5F * a * a);
  float p = -0.02914894965F;
  p = p * t + 0.1439859321F;
  p = p * t - 0.2557425522F;
  p = p * t + 0.1592049968F;
  p = p * t - 0.02312986832F;
  p = p * t + 0.1055158984F;
  p = p * t + 0.1198310382F;
  p = p * t + 0.1398620959F;
  p = p * t + 0.139621393F;
  const float tail = exp * (p * t);
  const float phi = u < 0 ? tail : 1.0F - tail;
  return {.value = u * phi, .derivative = phi + u * (exp * 0.398942280F)};
}

// A row of products becomes the derivatives.
ALBEF_WIDE_SIMD_CLONES void AddBiasAndKeep(float* x, const float* bias, float* y, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const Gelu gelu = GeluOf(x[i] + bias[i]);
    y[i] = gelu.value;
    x[i] = gelu.derivative;
  }
}

ALBEF_WIDE_SIMD_CLONES void AddBias(float* x, const float* bias, int64_t size) {
  for (int64_t i = 0; i < size; ++i) x[i] = GeluOf(x[i] + bias[i]).value;
}

template <typename RowFunction>
void ForEachRow(const torch::Tensor& x_MN, const RowFunction& function) {
  const int64_t width = x_MN.size(1);
  at::parallel_for(0, x_MN.size(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t row = first; row < last; ++row) function(row * width, width);
                   });
}

class LinearGeluFunction : public torch::autograd::Function<LinearGeluFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight_NK,
                          const Variable& bias_N) {
    const torch::Tensor x_MK = Rows(x);
    const torch::Tensor derivative_MN = at::mm(x_MK, weight_NK.t());
    const torch::Tensor value_MN = at::empty_like(derivative_MN);
    float* products = derivative_MN.mutable_data_ptr<float>();
    float* values = value_MN.mutable_data_ptr<float>();
    const float* bias = bias_N.const_data_ptr<float>();
    ForEachRow(value_MN, [&](int64_t begin, int64_t width) {
      AddBiasAndKeep(products + begin, bias, values + begin, width);
    });
    context->save_for_backward({x_MK, weight_NK, derivative_MN});
    return Unflatten(value_MN, x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return LinearGradients(Rows(gradients[0]) * saved[2], gradients[0], saved[0], saved[1],
                           context->needs_input_grad(0));
  }
};

}  // namespace

torch::Tensor LinearGelu(const torch::Tensor& x, const torch::Tensor& weight_NK,
                         const torch::Tensor& bias_N) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat) {
    return at::gelu(at::linear(x, weight_NK, bias_N));
  }
  if (torch::GradMode::is_enabled()) return LinearGeluFunction::apply(x, weight_NK, bias_N);
  const torch::Tensor y_MN = at::mm(Rows(x), weight_NK.t());
  float* values = y_MN.mutable_data_ptr<float>();
  const float* bias = bias_N.const_data_ptr<float>();
  ForEachRow(y_MN, [&](int64_t begin, int64_t width) { AddBias(values + begin, bias, width); });
  return Unflatten(y_MN, x);
}

}  // namespace albef
