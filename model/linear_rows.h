// What the variants of a linear layer have in common: its input as the rows of a product, and its
// gradients.
#ifndef ALBEF_MODEL_LINEAR_ROWS_H_
#define ALBEF_MODEL_LINEAR_ROWS_H_

#include <torch/autograd.h>
#include <torch/types.h>

namespace albef {

// (…,K) → (M,K).
torch::Tensor Rows(const torch::Tensor& x);

// (M,·) → (…,·) as `like` has its leading dimensions.
torch::Tensor Unflatten(const torch::Tensor& rows, const torch::Tensor& like);

// Of x, weight and bias of x·Wᵀ + b, in one dtype; that of x, which has the leading dimensions of
// `like`, is undefined where it is not needed. Each is a tensor of its own.
torch::autograd::variable_list LinearGradients(const torch::Tensor& gradient_MN,
                                               const torch::Tensor& like, const torch::Tensor& x_MK,
                                               const torch::Tensor& weight_NK, bool is_x_needed);

}  // namespace albef

#endif  // ALBEF_MODEL_LINEAR_ROWS_H_
