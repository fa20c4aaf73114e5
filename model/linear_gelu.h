// A linear layer with GELU behind it: on CPUs one pass over the products adds the bias, takes the
// function and keeps its derivative for backward, which is then a multiplication.
#ifndef ALBEF_MODEL_LINEAR_GELU_H_
#define ALBEF_MODEL_LINEAR_GELU_H_

#include <torch/types.h>

#include "model/mixed_linear.h"

namespace albef {

// GELU(x·Wᵀ + b), GELU(u) = u·Φ(u) exactly, not its approximation by tanh, for x of any shape
// (…,K), in the dtype of all three. In fp32 on CPUs with a relative error below 1e-6 for |u| ≤ 5,
// the same bits whatever the instruction set; in other dtypes and on GPUs LibTorch's kernels.
torch::Tensor LinearGelu(const torch::Tensor& x, const torch::Tensor& weight_NK,
                         const torch::Tensor& bias_N);

// The same with a shadow (model/mixed_linear.h): bf16, whatever x is; on CPUs the product is
// rounded before the bias is added, and the derivative to bf16.
torch::Tensor MixedLinearGelu(const torch::Tensor& x, const torch::Tensor& weight_NK,
                              const torch::Tensor& bias_N, const LinearShadow& shadow);

}  // namespace albef

#endif  // ALBEF_MODEL_LINEAR_GELU_H_
