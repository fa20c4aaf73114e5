#include "comm/tree.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(TreeStackDepth(0), 0);
  EXPECT_EQ(TreeStackDepth(1), 1);
  EXPECT_EQ(TreeStackDepth(3), 2);
  EXPECT_EQ(TreeStackDepth(4), 3);
  EXPECT_EQ(TreeStackDepth(7), 3);
}

}  // namespace
}  // namespace albef
