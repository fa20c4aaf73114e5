#include "model/linear_rows.h"

#include <vector>

namespace albef {

torch::Tensor Rows(const torch::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

torch::Tensor Unflatten(const torch::Tensor& rows, const torch::Tensor& like) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape.back() = rows.size(1);
  return rows.view(shape);
}

torch::autograd::variable_list LinearGradients(const torch::Tensor& gradient_MN,
                                               const torch::Tensor& like, const torch::Tensor& x_MK,
                                               const torch::Tensor& weight_NK, bool is_x_needed) {
  torch::Tensor x_gradient;
  if (is_x_needed) x_gradient = Unflatten(at::mm(gradient_MN, weight_NK), like);
  return {x_gradient, at::mm(gradient_MN.t(), x_MK), gradient_MN.sum(0)};
}

}  // namespace albef
