// Dropout that keeps nothing for backward: its mask is a function of one number drawn from
// LibTorch's generator, and is made again there.
#ifndef ALBEF_MODEL_DROPOUT_H_
#define ALBEF_MODEL_DROPOUT_H_

#include <torch/types.h>

#include <cstdint>

namespace albef {

// Each element of x with probability 1 − `probability`, divided by that, else zero; outside of
// training x itself. On CPUs the same elements are dropped whatever the dtype, the number of
// threads and the instruction set. On GPUs LibTorch's own kernel, which keeps a byte per element.
torch::Tensor Dropout(const torch::Tensor& x, double probability, bool training);

// The mask of one such call on a CPU, for kernels that drop what they compute on the way.
class DropoutMask {
 public:
  // 0 ≤ probability < 1.
  DropoutMask(double probability, uint64_t seed);

  // What Dropout makes of `size` elements x that stand at `begin` in a tensor; y may be x.
  // T is float, double or BFloat16.
  template <typename T>
  void Apply(const T* x, T* y, int64_t begin, int64_t size) const;

 private:
  uint64_t seed_;
  int32_t drop_below_;  // of 2^31 equally likely numbers those that mean zero
  double scale_;        // of the others
};

// The number from LibTorch's CPU generator of which Dropout makes its mask.
uint64_t DrawDropoutSeed();

}  // namespace albef

#endif  // ALBEF_MODEL_DROPOUT_H_
