// Mean of the virtual ranks' gradients in tree order, for the ranks that one worker hosts.
//
// Backward writes each rank's gradient into one arena; TreeSum keeps the partial sums beside it.
// The last addition of every pair uses the same two-operand kernel, so the bits depend on the tree
// alone.
//
// Not thread-safe.
#ifndef ALBEF_COMM_TREE_SUM_H_
#define ALBEF_COMM_TREE_SUM_H_

#include <torch/torch.h>

#include <vector>

namespace albef {

class TreeSum {
 public:
  // `gradient` is the flat arena that backward fills; `num_leaves` virtual ranks are summed per
  // step.
  TreeSum(torch::Tensor gradient, int64_t num_leaves);

  // Takes the gradient of the next virtual rank out of the arena. Call exactly `num_leaves` times,
  // in virtual-rank order; after the last call the arena holds the mean over all of them.
  void AddLeaf();

  // Arenas held beside the gradient's own.
  int64_t num_arenas() const { return static_cast<int64_t>(stack_.size()); }

 private:
  torch::Tensor gradient_;
  int64_t num_leaves_;
  int64_t next_leaf_ = 0;
  std::vector<torch::Tensor> stack_;
  size_t depth_ = 0;
};

}  // namespace albef

#endif  // ALBEF_COMM_TREE_SUM_H_
