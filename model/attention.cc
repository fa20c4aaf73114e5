#include "model/attention.h"

#include "model/cpu_attention.h"

namespace albef {

torch::Tensor Attention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                        const torch::Tensor& value_BASd, const AttentionOptions& options) {
  if (query_BATd.is_cpu()) return CpuAttention(query_BATd, key_BASd, value_BASd, options);
  std::optional<torch::Tensor> mask_B11S;
  if (options.mask_B11S) mask_B11S = options.mask_B11S->to(query_BATd.scalar_type());
  return at::scaled_dot_product_attention(query_BATd, key_BASd, value_BASd, mask_B11S,
                                          options.dropout);
}

torch::Tensor SelfAttention(const torch::Tensor& qkv_BTE, int64_t heads) {
  if (qkv_BTE.is_cpu()) return CpuSelfAttention(qkv_BTE, heads);
  const std::vector<torch::Tensor> qkv = qkv_BTE.chunk(3, 2);
  return MergeHeads(
      Attention(SplitHeads(qkv[0], heads), SplitHeads(qkv[1], heads), SplitHeads(qkv[2], heads)));
}

torch::Tensor SplitHeads(const torch::Tensor& x_BTD, int64_t heads) {
  return x_BTD.unflatten(2, {heads, -1}).transpose(1, 2);
}

torch::Tensor MergeHeads(const torch::Tensor& x_BATd) { return x_BATd.transpose(1, 2).flatten(2); }

}  // namespace albef
