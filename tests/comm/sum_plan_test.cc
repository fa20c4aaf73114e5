#include "comm/sum_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "comm/tree.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Kind = SumPlan::Kind;
using Step = SumPlan::Step;

Slice SliceOf(int64_t virtual_ranks, RankRange ranks) {
  return {.ranks = ranks, .subtrees = MaximalSubtrees(virtual_ranks, ranks)};
}

// Carries the plan out with ranges in the place of sums: only children of one node may be added.
void ExpectSums(const SumPlan& plan, const Slice& slice) {
  std::vector<RankRange> stack;
  for (const auto& [kind, index] : plan.steps) {
    if (kind == Kind::kFold) {
      ASSERT_GE(stack.size(), 2U);
      const RankRange right = stack.back();
      stack.pop_back();
      ASSERT_EQ(stack.back().end, right.begin);
      ASSERT_EQ(stack.back().size(), LeftChildLeaves(stack.back().size() + right.size()));
      stack.back().end = right.end;
    } else {
      stack.push_back(kind == Kind::kLeaf ? RankRange{index, index + 1}
                                          : plan.kept[static_cast<size_t>(index)]);
    }
  }
  ASSERT_EQ(stack, slice.subtrees);
}

TEST(SumPlan, AddsAsSoonAsBothSidesAreThere) {
  const SumPlan plan = PlanSums(SliceOf(4, {0, 4}));
  EXPECT_THAT(plan.steps, ElementsAre(Step{Kind::kLeaf, 0}, Step{Kind::kLeaf, 1}, Step{Kind::kFold},
                                      Step{Kind::kLeaf, 2}, Step{Kind::kLeaf, 3}, Step{Kind::kFold},
                                      Step{Kind::kFold}));
  EXPECT_EQ(plan.num_free_arenas, 3);
  EXPECT_EQ(plan.num_leaves(), 4);
  EXPECT_FALSE(plan.Keeps(0));
}

TEST(SumPlan, LeavesOutWhatWasKept) {
  const SumPlan plan = PlanSums(SliceOf(4, {0, 4}), {{2, 4}});
  EXPECT_THAT(plan.steps, ElementsAre(Step{Kind::kLeaf, 0}, Step{Kind::kLeaf, 1}, Step{Kind::kFold},
                                      Step{Kind::kKept, 0}, Step{Kind::kFold}));
  EXPECT_EQ(plan.num_free_arenas, 2);
  EXPECT_EQ(plan.num_leaves(), 2);
  EXPECT_FALSE(plan.Keeps(1));
  EXPECT_TRUE(plan.Keeps(2));
  EXPECT_TRUE(plan.Keeps(3));
}

TEST(SumPlan, UsesNothingThatReachesOutOfTheSlice) {
  EXPECT_THAT(PlanSums(SliceOf(8, {0, 3}), {{0, 4}, {4, 8}}).kept, IsEmpty());
}

TEST(SumPlan, LeavesTheSmallestOutWhereArenasAreScarce) {
  const Slice slice = SliceOf(8, {0, 8});
  const std::vector<RankRange> available = {{1, 2}, {2, 4}, {4, 6}, {6, 7}};
  EXPECT_EQ(PlanSums(slice, available, 5).kept, available);
  EXPECT_THAT(PlanSums(slice, available, 4).kept, ElementsAre(RankRange{2, 4}, RankRange{4, 6}));
}

TEST(SumPlan, SumsEverySliceWhateverWasKept) {
  std::mt19937 random(7);
  for (int64_t virtual_ranks = 1; virtual_ranks <= 20; ++virtual_ranks) {
    for (int64_t begin = 0; begin < virtual_ranks; ++begin) {
      for (int64_t end = begin + 1; end <= virtual_ranks; ++end) {
        const Slice slice = SliceOf(virtual_ranks, {begin, end});
        const SumPlan whole = PlanSums(slice);
        ExpectSums(whole, slice);
        ASSERT_EQ(whole.num_free_arenas, NumGradientArenas(slice));
        ASSERT_EQ(whole.num_leaves(), slice.ranks.size());
        const auto first = static_cast<int64_t>(random()) % virtual_ranks;
        const RankRange kept = {
            first, first + 1 + static_cast<int64_t>(random()) % (virtual_ranks - first)};
        const Slice old = SliceOf(virtual_ranks, kept);
        const int max_arenas = std::max(NumGradientArenas(slice), NumGradientArenas(old));
        const SumPlan plan = PlanSums(slice, old.subtrees, max_arenas);
        ExpectSums(plan, slice);
        ASSERT_LE(plan.num_free_arenas + static_cast<int>(plan.kept.size()), max_arenas);
        int64_t num_kept = 0;
        for (int64_t v = begin; v < end; ++v) num_kept += plan.Keeps(v) ? 1 : 0;
        ASSERT_EQ(plan.num_leaves(), slice.ranks.size() - num_kept);
      }
    }
  }
}

}  // namespace
}  // namespace albef
