// Mean of the virtual ranks' gradients in tree order, for the ranks that one worker hosts (design
// §4).
//
// Backward fills one arena per virtual rank; complete subtrees are added in place as soon as they
// exist, so the arenas form a stack of partial sums and nothing is ever copied.
//
// Not thread-safe.
#ifndef ALBEF_COMM_TREE_SUM_H_
#define ALBEF_COMM_TREE_SUM_H_

#include <torch/types.h>

#include <vector>

namespace albef {

class TreeSum {
 public:
  // Sums `num_leaves` virtual ranks per step in TreeStackDepth(num_leaves) equal flat `arenas`.
  TreeSum(std::vector<torch::Tensor> arenas, int64_t num_leaves);

  // Where the gradient of the next virtual rank goes; it holds old values until then.
  const torch::Tensor& Leaf() const { return arenas_[depth_]; }

  // Puts Leaf() on the stack. Call in virtual-rank order, `num_leaves` times before Mean().
  void AddLeaf();

  // Forgets the leaves of a step that was given up.
  void Reset();

  // The mean over all leaves, in one of the arenas; valid until the next AddLeaf().
  torch::Tensor Mean();

 private:
  // Adds the newest partial sum to the one before it.
  void Fold();

  std::vector<torch::Tensor> arenas_;  // the first depth_ are partial sums
  int64_t num_leaves_;
  int64_t added_ = 0;
  size_t depth_ = 0;
};

}  // namespace albef

#endif  // ALBEF_COMM_TREE_SUM_H_
