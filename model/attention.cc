#include "model/attention.h"

#include <cmath>

namespace albef {

torch::Tensor Attention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                        const torch::Tensor& value_BASd, const AttentionOptions& options) {
  if (query_BATd.is_cuda()) {
    return at::scaled_dot_product_attention(query_BATd, key_BASd, value_BASd, options.mask_B11S,
                                            options.dropout);
  }
  // On CPUs the three plain kernels beat the fused one, and with dropout there is no fused one. The
  // scale goes to the queries, the smaller tensor.
  const double scale = 1.0 / std::sqrt(static_cast<double>(query_BATd.size(3)));
  torch::Tensor scores_BATS = at::matmul(query_BATd * scale, key_BASd.transpose(2, 3));
  if (options.mask_B11S) scores_BATS.add_(*options.mask_B11S);
  torch::Tensor probs_BATS = at::softmax(scores_BATS, 3);
  if (options.dropout > 0) probs_BATS = at::dropout(probs_BATS, options.dropout, true);
  return at::matmul(probs_BATS, value_BASd);
}

torch::Tensor SplitHeads(const torch::Tensor& x_BTD, int64_t heads) {
  return x_BTD.unflatten(2, {heads, -1}).transpose(1, 2);
}

torch::Tensor MergeHeads(const torch::Tensor& x_BATd) { return x_BATd.transpose(1, 2).flatten(2); }

}  // namespace albef
