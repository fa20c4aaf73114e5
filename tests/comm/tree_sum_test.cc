#include "comm/tree_sum.h"

#include <gtest/gtest.h>

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
    torch::Tensor gradient = torch::zeros(257);
    TreeSum sum(gradient, num_leaves);
    EXPECT_EQ(sum.num_arenas() + 1, TreeStackDepth(num_leaves));
    for (int step = 0; step < 2; ++step) {
      for (const torch::Tensor& leaf : leaves) {
        gradient.copy_(leaf);
        sum.AddLeaf();
      }
      const torch::Tensor expected = Node(leaves, 0, num_leaves) / static_cast<double>(num_leaves);
      ASSERT_TRUE(torch::equal(gradient, num_leaves == 1 ? leaves[0] : expected))
          << num_leaves << " leaves, step " << step;
    }
  }
}

TEST(TreeSum, HoldsOneArenaForTwoRanksAndNoneForOne) {
  EXPECT_EQ(TreeSum(torch::zeros(4), 1).num_arenas(), 0);
  EXPECT_EQ(TreeSum(torch::zeros(4), 2).num_arenas(), 1);
  EXPECT_EQ(TreeSum(torch::zeros(4), 4).num_arenas(), 2);
  EXPECT_EQ(TreeSum(torch::zeros(4), 5).num_arenas(), 2);
}

}  // namespace
}  // namespace albef
