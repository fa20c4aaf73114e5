// Scaled dot-product attention on CPUs, head by head: scores and probabilities of one head stay in
// the cache of the core that computes them, and backward computes them again instead of keeping
// them (as FlashAttention does, arXiv 2205.14135, with whole rows for tiles).
#ifndef ALBEF_MODEL_CPU_ATTENTION_H_
#define ALBEF_MODEL_CPU_ATTENTION_H_

#include <torch/types.h>

#include "model/attention.h"

namespace albef {

// What Attention() gives, for tensors on the CPU in fp32, fp64 or bf16; in bf16 everything between
// inputs and result is fp32. (B,A,T,d) that lies in memory as (B,T,A,d). The same bits whatever the
// number of threads; dropout as of the probabilities (B,A,T,S) by Dropout().
torch::Tensor CpuAttention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                           const torch::Tensor& value_BASd, const AttentionOptions& options);

// The same for queries, keys and values side by side, (B,T,3·A·d) → (B,T,A·d), with one tensor for
// their gradients.
torch::Tensor CpuSelfAttention(const torch::Tensor& qkv_BTE, int64_t heads);

}  // namespace albef

#endif  // ALBEF_MODEL_CPU_ATTENTION_H_
