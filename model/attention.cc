#include "model/attention.h"

#include <cmath>

#include "model/dropout.h"

namespace albef {

torch::Tensor Attention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                        const torch::Tensor& value_BASd, const AttentionOptions& options) {
  // On CPUs the fused kernel has no dropout. Without gradients it takes 0.4 to 0.8 of the time of
  // the three plain kernels (fp32, 257 tokens, batch 8 and 2); with them it wins or loses a fifth,
  // depending on the machine: then the plain ones.
  const bool needs_gradient = torch::GradMode::is_enabled() && query_BATd.requires_grad();
  if (query_BATd.is_cuda() || (!needs_gradient && options.dropout == 0)) {
    std::optional<torch::Tensor> mask_B11S;
    if (options.mask_B11S) mask_B11S = options.mask_B11S->to(query_BATd.scalar_type());
    return at::scaled_dot_product_attention(query_BATd, key_BASd, value_BASd, mask_B11S,
                                            options.dropout);
  }
  // In bf16 the fused kernel takes 2.5 times as long with gradients as these three in fp32, which
  // on CPUs without bf16 products also take 0.4 of the time of three in bf16 (257 tokens, batch 2).
  if (query_BATd.scalar_type() == at::kBFloat16) {
    return Attention(query_BATd.to(at::kFloat), key_BASd.to(at::kFloat), value_BASd.to(at::kFloat),
                     options)
        .to(at::kBFloat16);
  }
  // The scale goes to the queries, the smaller tensor.
  const double scale = 1.0 / std::sqrt(static_cast<double>(query_BATd.size(3)));
  torch::Tensor scores_BATS = at::matmul(query_BATd * scale, key_BASd.transpose(2, 3));
  if (options.mask_B11S) scores_BATS.add_(*options.mask_B11S);
  torch::Tensor probs_BATS = at::softmax(scores_BATS, 3);
  if (options.dropout > 0) probs_BATS = Dropout(probs_BATS, options.dropout, true);
  return at::matmul(probs_BATS, value_BASd);
}

torch::Tensor SplitHeads(const torch::Tensor& x_BTD, int64_t heads) {
  return x_BTD.unflatten(2, {heads, -1}).transpose(1, 2);
}

torch::Tensor MergeHeads(const torch::Tensor& x_BATd) { return x_BATd.transpose(1, 2).flatten(2); }

}  // namespace albef
