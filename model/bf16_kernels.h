// Loops over bf16 on CPUs where LibTorch's operators take several passes.
#ifndef ALBEF_MODEL_BF16_KERNELS_H_
#define ALBEF_MODEL_BF16_KERNELS_H_

#include <torch/types.h>

namespace albef {

// Sums of the columns of a bf16 matrix on the CPU, (M,N) → (N) in fp32, added up row after row: the
// same bits whatever the number of threads.
torch::Tensor ColumnSums(const torch::Tensor& x_MN);

}  // namespace albef

#endif  // ALBEF_MODEL_BF16_KERNELS_H_
