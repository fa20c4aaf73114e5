// Dropout that keeps nothing for backward: its mask is a function of one number drawn from
// LibTorch's generator, and is made again there.
#ifndef ALBEF_MODEL_DROPOUT_H_
#define ALBEF_MODEL_DROPOUT_H_

#include <torch/types.h>

namespace albef {

// Each element of x with probability 1 − `probability`, divided by that, else zero; outside of
// training x itself. On CPUs the same elements are dropped whatever the dtype, the number of
// threads and the instruction set. On GPUs LibTorch's own kernel, which keeps a byte per element.
torch::Tensor Dropout(const torch::Tensor& x, double probability, bool training);

}  // namespace albef

#endif  // ALBEF_MODEL_DROPOUT_H_
