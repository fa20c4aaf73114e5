#include "model/mixed_linear.h"

#include <torch/autograd.h>
#include <torch/utils.h>

#include <string>

#include "common/file.h"
#include "model/bf16_kernels.h"
#include "model/linear_rows.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr const char* kInputType = "input_type";

// Below so many rows a weight's gradient is nearly all writing, which the product in fp32 does
// once.
constexpr int64_t kFewRows = 64;

bool MultipliesBf16(const torch::Tensor& x) { return x.is_cuda() || CpuMultipliesBf16(); }

torch::Tensor Multiply(const torch::Tensor& x_MK, const LinearShadow& shadow,
                       torch::ScalarType result_type) {
  const torch::Tensor weight_KN = shadow.weight_NK.t();
  if (result_type == at::kBFloat16 && MultipliesBf16(x_MK)) {
    return at::addmm(shadow.bias_N, x_MK, weight_KN);
  }
  return Bf16Product(x_MK, weight_KN, at::kFloat).add_(shadow.bias_N).to(result_type);
}

torch::Tensor WeightGradient(const torch::Tensor& gradient_MN, const torch::Tensor& x_MK) {
  if (x_MK.is_cpu() && x_MK.size(0) <= kFewRows) {
    return at::mm(gradient_MN.to(at::kFloat).t(), x_MK.to(at::kFloat));
  }
  return Bf16Product(gradient_MN.t(), x_MK, at::kFloat);
}

class MixedLinearFunction : public torch::autograd::Function<MixedLinearFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& /*weight*/,
                          const Variable& /*bias*/, const LinearShadow& shadow,
                          torch::ScalarType result_type) {
    const torch::Tensor x_MK = Bf16Rows(x);
    KeepForGradients(*context, x, x_MK, shadow);
    return Unflatten(Multiply(x_MK, shadow, result_type), x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    variable_list results = MixedLinearGradients(*context, Bf16Rows(gradients[0]), gradients[0]);
    results.resize(5);
    return results;
  }
};

// at::linear with one node in the graph instead of four, and the same bits.
class PlainLinearFunction : public torch::autograd::Function<PlainLinearFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight_NK,
                          const Variable& bias_N) {
    context->save_for_backward({x, weight_NK});
    return at::linear(x, weight_NK, bias_N);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return LinearGradients(Rows(gradients[0]), gradients[0], Rows(saved[0]), saved[1],
                           context->needs_input_grad(0));
  }
};

}  // namespace

torch::Tensor Bf16Rows(const torch::Tensor& x) { return Rows(x.to(at::kBFloat16)); }

torch::Tensor Bf16Product(const torch::Tensor& left, const torch::Tensor& right,
                          torch::ScalarType result_type) {
  if (left.is_cuda() && result_type == at::kFloat) return at::mm(left, right, result_type);
  if (MultipliesBf16(left)) return at::mm(left, right).to(result_type);
  return at::mm(left.to(at::kFloat), right.to(at::kFloat)).to(result_type);
}

void KeepForGradients(AutogradContext& context, const torch::Tensor& x, const torch::Tensor& x_MK,
                      const LinearShadow& shadow, const torch::Tensor& also) {
  context.save_for_backward({x_MK, shadow.weight_NK, also});
  context.saved_data[kInputType] = x.scalar_type();
}

variable_list MixedLinearGradients(AutogradContext& context, const torch::Tensor& gradient_MN,
                                   const torch::Tensor& like) {
  const variable_list saved = context.get_saved_variables();
  torch::Tensor x_gradient;
  if (context.needs_input_grad(0)) {
    x_gradient = Unflatten(
        Bf16Product(gradient_MN, saved[1], context.saved_data[kInputType].toScalarType()), like);
  }
  return {x_gradient, WeightGradient(gradient_MN, saved[0]),
          gradient_MN.is_cpu() ? ColumnSums(gradient_MN)
                               : at::sum(gradient_MN, 0, /*keepdim=*/false, at::kFloat)};
}

torch::Tensor MixedLinear(const torch::Tensor& x, const torch::Tensor& weight_NK,
                          const torch::Tensor& bias_N, const LinearShadow& shadow,
                          torch::ScalarType result_type) {
  if (!shadow.weight_NK.defined()) {
    return x.is_cpu() && torch::GradMode::is_enabled()
               ? PlainLinearFunction::apply(x, weight_NK, bias_N)
               : at::linear(x, weight_NK, bias_N);
  }
  if (torch::GradMode::is_enabled()) {
    return MixedLinearFunction::apply(x, weight_NK, bias_N, shadow, result_type);
  }
  return Unflatten(Multiply(Bf16Rows(x), shadow, result_type), x);
}

bool CpuMultipliesBf16() {
  // The flags of x86 (avx512_bf16, amx_bf16) and ARM (bf16); nothing else says "bf16" there.
  static const bool has_flag = [] {
    const absl::StatusOr<std::string> cpuinfo = ReadFile("/proc/cpuinfo");
    return cpuinfo.ok() && cpuinfo->find("bf16") != std::string::npos;
  }();
  return has_flag;
}

}  // namespace albef
