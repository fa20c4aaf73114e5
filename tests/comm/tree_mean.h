// The mean of virtual ranks' gradients by the definition of the tree (design §4), to compare with.
#ifndef ALBEF_TESTS_COMM_TREE_MEAN_H_
#define ALBEF_TESTS_COMM_TREE_MEAN_H_

#include <torch/types.h>

#include <span>

#include "comm/tree.h"

namespace albef {

inline torch::Tensor TreeSum(std::span<const torch::Tensor> leaves) {
  if (leaves.size() == 1) return leaves[0];
  const auto middle = static_cast<size_t>(LeftChildLeaves(static_cast<int64_t>(leaves.size())));
  return TreeSum(leaves.first(middle)) + TreeSum(leaves.subspan(middle));
}

inline torch::Tensor TreeMean(std::span<const torch::Tensor> leaves) {
  return TreeSum(leaves) / static_cast<double>(leaves.size());
}

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_TREE_MEAN_H_
