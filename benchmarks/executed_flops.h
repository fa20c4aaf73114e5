// Counts the arithmetic of matrix products while it lives: what LibTorch really executes, beside
// what a formula says that a model needs.
#ifndef ALBEF_BENCHMARKS_EXECUTED_FLOPS_H_
#define ALBEF_BENCHMARKS_EXECUTED_FLOPS_H_

#include <ATen/record_function.h>

#include <atomic>
#include <cstdint>

namespace albef {

// Of all threads. A multiplication and an addition are two operations. Counted are mm, addmm, bmm,
// baddbmm and the fused attentions (forward two products, backward five); everything else, such as
// normalisation and activation functions, is not. At most one lives at a time.
class ExecutedFlops {
 public:
  ExecutedFlops();
  ~ExecutedFlops();

  ExecutedFlops(const ExecutedFlops&) = delete;
  ExecutedFlops& operator=(const ExecutedFlops&) = delete;

  double count() const { return static_cast<double>(count_.load()); }

 private:
  static std::atomic<int64_t> count_;
  const at::CallbackHandle callback_;
};

}  // namespace albef

#endif  // ALBEF_BENCHMARKS_EXECUTED_FLOPS_H_
