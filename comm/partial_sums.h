// Sums of the virtual ranks' gradients that one worker hosts, one per subtree of its slice (design
// §4, Tree reduction).
//
// Backward fills one arena per virtual rank. Whatever the tree adds is added in place as soon as
// both sides exist, so the arenas form a stack of partial sums and nothing is ever copied. The
// additions after the last rank may be done range by range, while its backward is still filling
// other ranges.
//
// Not thread-safe, but for FoldRange() on ranges that do not overlap.
#ifndef ALBEF_COMM_PARTIAL_SUMS_H_
#define ALBEF_COMM_PARTIAL_SUMS_H_

#include <torch/types.h>

#include <vector>

#include "comm/slices.h"

namespace albef {

// out ← left + right: the one addition of all reductions, so that their bits agree. `out` may be
// either operand.
void AddTo(const torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right);

class PartialSums {
 public:
  // Sums in NumGradientArenas(slice) equal flat `arenas`.
  PartialSums(std::vector<torch::Tensor> arenas, const Slice& slice);

  // Where the gradient of the next virtual rank goes; it holds old values until then.
  const torch::Tensor& Leaf() const { return arenas_[depth_]; }

  bool AtLastLeaf() const { return num_leaves_ - 1 == added_; }
  bool Complete() const { return num_leaves_ == added_; }

  // Puts Leaf() on the stack; in virtual-rank order. After the last one, FoldRange() is still owed
  // for the whole range.
  void AddLeaf();

  // Finishes the partial sums of elements [offset, offset + numel), for which the last leaf must be
  // final. Once per element.
  void FoldRange(int64_t offset, int64_t numel) const;

  // The arena with the sum over the slice's subtree `index`, once folded.
  const torch::Tensor& Subtree(size_t index) const { return arenas_[index]; }

  // Ready for the next step, whether or not this one was completed.
  void Reset();

  int64_t num_leaves() const { return num_leaves_; }

 private:
  // Additions that the tree asks for once leaf `index` of the slice is there.
  int FoldsAfter(int64_t index) const { return folds_[static_cast<size_t>(index)]; }

  std::vector<torch::Tensor> arenas_;  // the first depth_ are partial sums
  int64_t num_leaves_;
  std::vector<int> folds_;  // by leaf
  int64_t added_ = 0;
  size_t depth_ = 0;
  size_t full_depth_ = 0;  // with the last leaf on the stack
};

}  // namespace albef

#endif  // ALBEF_COMM_PARTIAL_SUMS_H_
