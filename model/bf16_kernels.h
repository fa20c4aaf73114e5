// Loops over bf16 on CPUs where LibTorch's operators take several passes.
#ifndef ALBEF_MODEL_BF16_KERNELS_H_
#define ALBEF_MODEL_BF16_KERNELS_H_

#include <torch/types.h>

#include <cstdint>

namespace albef {

// Between fp32 and the bits of bf16, rounded to the nearest.
void LoadRow(const uint16_t* from, float* to, int64_t size);
void StoreRow(const float* from, uint16_t* to, int64_t size);

// Sums of the columns of a bf16 matrix on the CPU, (M,N) → (N) in fp32, added up row after row: the
// same bits whatever the number of threads.
torch::Tensor ColumnSums(const torch::Tensor& x_MN);

}  // namespace albef

#endif  // ALBEF_MODEL_BF16_KERNELS_H_
