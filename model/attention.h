// Scaled dot-product attention, the one place where its implementation is chosen.
#ifndef ALBEF_MODEL_ATTENTION_H_
#define ALBEF_MODEL_ATTENTION_H_

#include <torch/types.h>

#include <cstdint>
#include <optional>

namespace albef {

struct AttentionOptions {
  // Added to the scaled scores, broadcast over heads and queries: (B, 1, 1, S). Of any dtype.
  std::optional<torch::Tensor> mask_B11S;
  double dropout = 0;  // of the probabilities; 0 outside of training
};

// softmax(QKᵀ/√d + mask)·V for heads along dimension 1: (B,A,T,d), (B,A,S,d), (B,A,S,d) →
// (B,A,T,d). All of one dtype, which the result has too; of bf16 the softmax is taken in fp32.
torch::Tensor Attention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                        const torch::Tensor& value_BASd, const AttentionOptions& options = {});

// The same of queries, keys and values side by side, (B,T,3·A·d) → (B,T,A·d), without mask and
// dropout.
torch::Tensor SelfAttention(const torch::Tensor& qkv_BTE, int64_t heads);

// (B,T,A·d) → (B,A,T,d), without a copy.
torch::Tensor SplitHeads(const torch::Tensor& x_BTD, int64_t heads);

// (B,A,T,d) → (B,T,A·d).
torch::Tensor MergeHeads(const torch::Tensor& x_BATd);

}  // namespace albef

#endif  // ALBEF_MODEL_ATTENTION_H_
