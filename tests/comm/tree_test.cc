#include "comm/tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace albef {
namespace {

TEST(Tree, LeftChildIsTheLargestPowerOfTwoBelowTheCount) {
  EXPECT_EQ(LeftChildLeaves(2), 1);
  EXPECT_EQ(LeftChildLeaves(3), 2);
  EXPECT_EQ(LeftChildLeaves(4), 2);
  EXPECT_EQ(LeftChildLeaves(5), 4);
  EXPECT_EQ(LeftChildLeaves(8), 4);
  EXPECT_EQ(LeftChildLeaves(9), 8);
}

TEST(Tree, TheStackHoldsOneCompleteSubtreePerOneBit) {
  std::vector<int64_t> sizes;
  int deepest = 0;
  for (int64_t leaf = 0; leaf < 1000; ++leaf) {
    sizes.push_back(1);
    for (int i = 0; i < AdditionsAfterLeaf(leaf); ++i) {
      const int64_t right = sizes.back();
      sizes.pop_back();
      ASSERT_EQ(sizes.back(), right) << "only equal subtrees are added while leaves arrive";
      sizes.back() += right;
    }
    deepest = std::max(deepest, static_cast<int>(sizes.size()));
    ASSERT_EQ(static_cast<int>(sizes.size()), std::popcount(static_cast<uint64_t>(leaf + 1)));
    ASSERT_LE(deepest, TreeStackDepth(leaf + 1));
  }
}

}  // namespace
}  // namespace albef
