#include "comm/slices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/status/status.h"
#include "comm/tree.h"

namespace albef {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kMostRanks = 32;

// Every node of the tree with its parent (the root has none), by the definition.
void Nodes(RankRange node, RankRange parent,
           std::map<std::pair<int64_t, int64_t>, RankRange>& parents) {
  parents[{node.begin, node.end}] = parent;
  if (node.size() == 1) return;
  const int64_t middle = node.begin + LeftChildLeaves(node.size());
  Nodes({node.begin, middle}, node, parents);
  Nodes({middle, node.end}, node, parents);
}

// (largest slice, most subtrees in a slice, subtrees): what a division is judged by.
using Cost = std::tuple<int64_t, int64_t, int64_t>;

Cost Add(const Cost& cost, int64_t virtual_ranks, RankRange slice) {
  const auto subtrees = static_cast<int64_t>(MaximalSubtrees(virtual_ranks, slice).size());
  return {std::max(std::get<0>(cost), slice.size()), std::max(std::get<1>(cost), subtrees),
          std::get<2>(cost) + subtrees};
}

// The least cost over all divisions of [begin, virtual_ranks) into `workers` slices.
Cost Best(int64_t virtual_ranks, int64_t workers, int64_t begin, const Cost& before) {
  if (workers == 1) return Add(before, virtual_ranks, {begin, virtual_ranks});
  Cost best = {1000, 1000, 1000};
  for (int64_t end = begin + 1; end <= virtual_ranks - workers + 1; ++end) {
    best = std::min(
        best, Best(virtual_ranks, workers - 1, end, Add(before, virtual_ranks, {begin, end})));
  }
  return best;
}

TEST(Slices, AreContiguousListsOfMaximalWholeSubtrees) {
  for (int64_t virtual_ranks = 1; virtual_ranks <= kMostRanks; ++virtual_ranks) {
    std::map<std::pair<int64_t, int64_t>, RankRange> parents;
    Nodes({0, virtual_ranks}, {}, parents);
    for (int64_t workers = 1; workers <= virtual_ranks; ++workers) {
      SCOPED_TRACE(testing::Message() << virtual_ranks << " ranks on " << workers << " workers");
      const auto slices = DivideRanks(virtual_ranks, workers);
      ASSERT_TRUE(slices.ok()) << slices.status();
      ASSERT_EQ(static_cast<int64_t>(slices->size()), workers);
      int64_t next = 0;
      int64_t largest = 0;
      for (const Slice& slice : *slices) {
        ASSERT_EQ(slice.ranks.begin, next);
        ASSERT_GT(slice.ranks.size(), 0);
        largest = std::max(largest, slice.ranks.size());
        for (const RankRange& subtree : slice.subtrees) {
          ASSERT_EQ(subtree.begin, next);
          const auto parent = parents.find({subtree.begin, subtree.end});
          ASSERT_NE(parent, parents.end()) << "no node of the tree";
          if (subtree.size() < virtual_ranks) {
            ASSERT_TRUE(parent->second.begin < slice.ranks.begin ||
                        parent->second.end > slice.ranks.end)
                << "its parent is in the slice too";
          }
          next = subtree.end;
        }
        ASSERT_EQ(slice.ranks.end, next);
      }
      ASSERT_EQ(next, virtual_ranks);
      ASSERT_EQ(largest, (virtual_ranks + workers - 1) / workers);
    }
  }
}

TEST(Slices, AreTheBestOfAllDivisions) {
  for (int64_t virtual_ranks = 1; virtual_ranks <= 14; ++virtual_ranks) {
    for (int64_t workers = 1; workers <= virtual_ranks; ++workers) {
      Cost cost = {0, 0, 0};
      const auto slices = DivideRanks(virtual_ranks, workers);
      ASSERT_TRUE(slices.ok()) << slices.status();
      for (const Slice& slice : *slices) cost = Add(cost, virtual_ranks, slice.ranks);
      ASSERT_EQ(cost, Best(virtual_ranks, workers, 0, {0, 0, 0}))
          << virtual_ranks << " ranks on " << workers << " workers";
    }
  }
}

TEST(Slices, AreOneSubtreeEachWhereTheRanksDivideEvenlyByAPowerOfTwo) {
  for (const auto& [virtual_ranks, workers] :
       std::vector<std::pair<int64_t, int64_t>>{{8, 2}, {8, 4}, {32, 8}, {3, 3}, {6, 3}, {24, 6}}) {
    const auto slices = DivideRanks(virtual_ranks, workers);
    ASSERT_TRUE(slices.ok()) << slices.status();
    for (const Slice& slice : *slices) ASSERT_EQ(slice.subtrees.size(), 1U);
  }
}

TEST(Slices, FiveRanksOnTwoWorkersSplitWhereTheTreeDoes) {
  const auto slices = DivideRanks(5, 2);
  ASSERT_TRUE(slices.ok()) << slices.status();
  EXPECT_THAT((*slices)[0].subtrees, ElementsAre(RankRange{0, 2}));
  EXPECT_THAT((*slices)[1].subtrees, ElementsAre(RankRange{2, 4}, RankRange{4, 5}));
}

TEST(Slices, CountTheArenasOfAStackThatKeepsFinishedSubtrees) {
  const auto arenas = [](int64_t virtual_ranks, RankRange ranks) {
    return NumGradientArenas({ranks, MaximalSubtrees(virtual_ranks, ranks)});
  };
  EXPECT_EQ(arenas(1, {0, 1}), 1);
  EXPECT_EQ(arenas(8, {0, 8}), TreeStackDepth(8));
  EXPECT_EQ(arenas(8, {4, 6}), 2);
  EXPECT_EQ(arenas(4, {1, 4}), 3) << "rank 1 waits while ranks 2 and 3 are added";
  EXPECT_EQ(arenas(16, {3, 11}), 4);
}

TEST(Slices, RefuseMoreWorkersThanVirtualRanks) {
  EXPECT_EQ(DivideRanks(2, 3).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DivideRanks(2, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DivideRanks(0, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace albef
