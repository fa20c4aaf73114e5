#include "model/linear_gelu.h"

#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdint>

#include "common/simd.h"
#include "model/linear_rows.h"
#include "model/simd_math.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The least that a thread is given, in elements.
constexpr int64_t kGrain = 1 << 14;

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

// The same for products in bf16.
ALBEF_WIDE_SIMD_CLONES void AddBiasAndKeep(uint16_t* x, const uint16_t* bias, uint16_t* y,
                                           int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const Gelu gelu = GeluOf(FromBf16(x[i]) + FromBf16(bias[i]));
    y[i] = ToBf16(gelu.value);
    x[i] = ToBf16(gelu.derivative);
  }
}

ALBEF_WIDE_SIMD_CLONES void AddBias(uint16_t* x, const uint16_t* bias, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    x[i] = ToBf16(GeluOf(FromBf16(x[i]) + FromBf16(bias[i])).value);
  }
}

ALBEF_WIDE_SIMD_CLONES void MultiplyRow(const uint16_t* x, const uint16_t* y, uint16_t* result,
                                        int64_t size) {
  for (int64_t i = 0; i < size; ++i) result[i] = ToBf16(FromBf16(x[i]) * FromBf16(y[i]));
}

// T is float, or uint16_t for the bits of bf16.
template <typename T>
T* Elements(const torch::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

template <typename RowFunction>
void ForEachRow(const torch::Tensor& x_MN, const RowFunction& function) {
  const int64_t width = x_MN.size(1);
  at::parallel_for(0, x_MN.size(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t row = first; row < last; ++row) function(row * width, width);
                   });
}

// GELU of products + bias, with the products becoming the derivatives.
template <typename T>
torch::Tensor ValuesAndKeep(const torch::Tensor& products_MN, const torch::Tensor& bias_N) {
  const torch::Tensor values_MN = at::empty_like(products_MN);
  T* products = Elements<T>(products_MN);
  T* values = Elements<T>(values_MN);
  const T* bias = Elements<T>(bias_N);
  ForEachRow(values_MN, [&](int64_t begin, int64_t width) {
    AddBiasAndKeep(products + begin, bias, values + begin, width);
  });
  return values_MN;
}

// The same in place of the products.
template <typename T>
torch::Tensor Values(const torch::Tensor& products_MN, const torch::Tensor& bias_N) {
  T* products = Elements<T>(products_MN);
  const T* bias = Elements<T>(bias_N);
  ForEachRow(products_MN,
             [&](int64_t begin, int64_t width) { AddBias(products + begin, bias, width); });
  return products_MN;
}

class LinearGeluFunction : public torch::autograd::Function<LinearGeluFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight_NK,
                          const Variable& bias_N) {
    const torch::Tensor x_MK = Rows(x);
    const torch::Tensor derivative_MN = at::mm(x_MK, weight_NK.t());
    const torch::Tensor value_MN = ValuesAndKeep<float>(derivative_MN, bias_N);
    context->save_for_backward({x_MK, weight_NK, derivative_MN});
    return Unflatten(value_MN, x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return LinearGradients(Rows(gradients[0]) * saved[2], gradients[0], saved[0], saved[1],
                           context->needs_input_grad(0));
  }
};

class MixedLinearGeluFunction : public torch::autograd::Function<MixedLinearGeluFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& /*weight*/,
                          const Variable& /*bias*/, const LinearShadow& shadow) {
    const torch::Tensor x_MK = Bf16Rows(x);
    const torch::Tensor derivative_MN = Bf16Product(x_MK, shadow.weight_NK.t(), at::kBFloat16);
    const torch::Tensor value_MN = ValuesAndKeep<uint16_t>(derivative_MN, shadow.bias_N);
    KeepForGradients(*context, x, x_MK, shadow, derivative_MN);
    return Unflatten(value_MN, x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const torch::Tensor gradient_MN = Bf16Rows(gradients[0]).contiguous();
    const torch::Tensor product_MN = at::empty_like(gradient_MN);
    const uint16_t* gradient = Elements<uint16_t>(gradient_MN);
    const uint16_t* derivative = Elements<uint16_t>(context->get_saved_variables()[2]);
    uint16_t* product = Elements<uint16_t>(product_MN);
    ForEachRow(product_MN, [&](int64_t begin, int64_t width) {
      MultiplyRow(gradient + begin, derivative + begin, product + begin, width);
    });
    variable_list results = MixedLinearGradients(*context, product_MN, gradients[0]);
    results.resize(4);
    return results;
  }
};

}  // namespace

torch::Tensor LinearGelu(const torch::Tensor& x, const torch::Tensor& weight_NK,
                         const torch::Tensor& bias_N) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat) {
    return at::gelu(at::linear(x, weight_NK, bias_N));
  }
  if (torch::GradMode::is_enabled()) return LinearGeluFunction::apply(x, weight_NK, bias_N);
  return Unflatten(Values<float>(at::mm(Rows(x), weight_NK.t()), bias_N), x);
}

torch::Tensor MixedLinearGelu(const torch::Tensor& x, const torch::Tensor& weight_NK,
                              const torch::Tensor& bias_N, const LinearShadow& shadow) {
  if (!x.is_cpu()) return at::gelu(MixedLinear(x, weight_NK, bias_N, shadow, at::kBFloat16));
  if (torch::GradMode::is_enabled()) {
    return MixedLinearGeluFunction::apply(x, weight_NK, bias_N, shadow);
  }
  const torch::Tensor products_MN = Bf16Product(Bf16Rows(x), shadow.weight_NK.t(), at::kBFloat16);
  return Unflatten(Values<uint16_t>(products_MN, shadow.bias_N), x);
}

}  // namespace albef
