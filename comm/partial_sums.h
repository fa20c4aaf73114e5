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

#include <cstdint>
#include <utility>
#include <vector>

#include "comm/slices.h"
#include "comm/sum_plan.h"

namespace albef {

// out ← left + right: the one addition of all reductions, so that their bits agree. `out` may be
// either operand.
void AddTo(const torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right);

// What is left of an iteration that was given up, for whoever does it again.
struct KeptSums {
  struct Sum {
    RankRange node;     // of the tree
    torch::Tensor sum;  // of its virtual ranks' gradients, flat
  };
  std::vector<Sum> sums;
  std::vector<torch::Tensor> arenas;  // that hold nothing, of the sums' size
};

class PartialSums {
 public:
  // The first step takes the sums that are `kept`, as far as they are the slice's, instead of
  // computing their virtual ranks. All arenas are equal and flat, NumGradientArenas(slice) of them
  // or more; what is more is given back after the first step.
  PartialSums(KeptSums kept, Slice slice);

  // Whether the step takes the virtual rank's gradient from a sum that was kept.
  bool Keeps(int64_t virtual_rank) const { return plan_.Keeps(virtual_rank); }
  int64_t num_leaves() const { return num_leaves_; }  // to be computed in the step

  // Where the gradient of the next virtual rank goes; it holds old values until then.
  const torch::Tensor& Leaf() const { return free_.back(); }

  bool AtLastLeaf() const { return num_leaves_ - 1 == added_; }
  bool Complete() const { return num_leaves_ == added_; }

  // Puts Leaf() on the stack; in virtual-rank order. After the last one, FoldRange() is still owed
  // for the whole range.
  void AddLeaf();

  // Finishes the partial sums of elements [offset, offset + numel), for which the last leaf must be
  // final. Once per element.
  void FoldRange(int64_t offset, int64_t numel) const;

  // The arena with the sum over the slice's subtree `index`, once folded; from the last leaf on.
  const torch::Tensor& Subtree(size_t index) const { return subtrees_[index]; }

  // Ready for the next step, whether or not this one was completed.
  void Reset();

  // All that is there once everything is folded. No step can follow.
  KeptSums Take();

  const torch::Tensor& any_arena() const { return arenas_[0]; }

 private:
  // From the plan's first step.
  void Begin();
  // Does what the plan asks for before its next leaf.
  void Proceed();
  // Sets down what it asks for after its last.
  void PrepareEnd();

  const Slice slice_;
  std::vector<torch::Tensor> arenas_;  // all
  std::vector<KeptSums::Sum> kept_;    // of the first step
  SumPlan plan_;
  int64_t num_leaves_ = 0;
  int64_t added_ = 0;
  size_t next_ = 0;  // of the plan's steps
  std::vector<torch::Tensor> stack_;
  std::vector<torch::Tensor> free_;
  // What FoldRange() adds: the second to the first, in this order.
  std::vector<std::pair<torch::Tensor, torch::Tensor>> owed_;
  std::vector<torch::Tensor> subtrees_;
};

}  // namespace albef

#endif  // ALBEF_COMM_PARTIAL_SUMS_H_
