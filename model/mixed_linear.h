// Linear layers that multiply in bf16 while their parameters stay in fp32 (design §4, Precision).
//
// A parameter's *shadow* is its value rounded to bf16, in a tensor of its own that whoever changes
// the parameter brings up to date. Products read shadows and sum in fp32. Gradients reach the
// parameters in fp32: as these sums, except that CPUs with bf16 instructions round a weight's
// gradient of more than 64 rows to bf16 on the way, as LibTorch has no other product for them.
//
// Letters: K inputs, N outputs.
#ifndef ALBEF_MODEL_MIXED_LINEAR_H_
#define ALBEF_MODEL_MIXED_LINEAR_H_

#include <torch/autograd.h>
#include <torch/types.h>

#include <functional>

namespace albef {

// bf16, of the parameters' shapes; undefined where a layer has none.
struct LinearShadow {
  torch::Tensor weight_NK;
  torch::Tensor bias_N;
};

// The shadow of a parameter, valid as long as the parameter is.
using ShadowSource = std::function<torch::Tensor(const torch::Tensor& parameter)>;

// A module that can multiply with shadows instead of its parameters.
class ShadowReader {
 public:
  virtual ~ShadowReader() = default;

  // From now on it does. Shadows are no part of the module's state.
  virtual void BindShadows(const ShadowSource& shadow_of) = 0;
};

// x·Wᵀ + b for x of any shape (…,K). Without a shadow at::linear, in the dtype of all three. With
// one, x (fp32 or bf16) is rounded to bf16, and the result is `result_type`: bf16 or fp32.
// Gradients have the dtypes of x, weight and bias.
torch::Tensor MixedLinear(const torch::Tensor& x, const torch::Tensor& weight_NK,
                          const torch::Tensor& bias_N, const LinearShadow& shadow,
                          torch::ScalarType result_type);

// What the variants of such a layer share. Any shape (…,K) → (M,K) in bf16.
torch::Tensor Bf16Rows(const torch::Tensor& x);

// left · right of bf16 matrices, summed in fp32 and then of `result_type`, bf16 or fp32; on CPUs
// with bf16 instructions rounded to bf16 in any case.
torch::Tensor Bf16Product(const torch::Tensor& left, const torch::Tensor& right,
                          torch::ScalarType result_type);

// For the node of such a layer in the graph. Forward keeps x, the shadow and x's type, then what
// else it needs; backward turns the gradient of the product, in bf16 and with the leading
// dimensions of `like`, into those of x in that type (undefined where it is not needed), weight and
// bias in fp32.
void KeepForGradients(torch::autograd::AutogradContext& context, const torch::Tensor& x,
                      const torch::Tensor& x_MK, const LinearShadow& shadow,
                      const torch::Tensor& also = {});
torch::autograd::variable_list MixedLinearGradients(torch::autograd::AutogradContext& context,
                                                    const torch::Tensor& gradient_MN,
                                                    const torch::Tensor& like);

// Without such instructions MixedLinear multiplies the same rounded values in fp32, which takes a
// third of the time of LibTorch's emulation.
bool CpuMultipliesBf16();

}  // namespace albef

#endif  // ALBEF_MODEL_MIXED_LINEAR_H_
