#include "comm/tree_sum.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include "comm/tree.h"

namespace albef {
namespace {

// The definition, word for word.
torch::Tensor Node(const std::vector<torch::Tensor>& leaves, int64_t begin, int64_t end) {
  if (end - begin == 1) return leaves[static_cast<size_t>(begin)];
  const int64_t middle = begin + LeftChildLeaves(end - begin);
  return Node(leaves, begin, middle) + Node(leaves, middle, end);
}

TEST(TreeSum, HasTheBitsOfTheRecursiveDefinition) {
  torch::manual_seed(3);
  for (int64_t num_leaves = 1; num_leaves <= 33; ++num_leaves) {
    std::vector<torch::Tensor> leaves;
    // Magnitudes spread over many binades make every other order of addition visible.
    for (int64_t i = 0; i < num_leaves; ++i) {
      leaves.push_back(torch::randn(257) * torch::exp2(torch::randint(-12, 12, 257)));
    }
    std::vector<torch::Tensor> arenas;
    for (int i = 0; i < TreeStackDepth(num_leaves); ++i) arenas.push_back(torch::empty(257));
    TreeSum sum(arenas, num_leaves);
    const torch::Tensor root = Node(leaves, 0, num_leaves);
    for (int step = 0; step < 2; ++step) {
      for (const torch::Tensor& leaf : leaves) {
        sum.Leaf().copy_(leaf);
        sum.AddLeaf();
      }
      ASSERT_TRUE(torch::equal(sum.Mean(), root / static_cast<double>(num_leaves)))
          << num_leaves << " leaves, step " << step;
    }
  }
}

TEST(TreeSum, RefusesAMeanOverMissingOrSurplusRanks) {
  TreeSum sum({torch::zeros(4), torch::zeros(4)}, 2);
  sum.AddLeaf();
  EXPECT_THROW(sum.Mean(), c10::Error);
  sum.AddLeaf();
  EXPECT_THROW(sum.AddLeaf(), c10::Error);
}

}  // namespace
}  // namespace albef
