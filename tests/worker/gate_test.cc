#include "worker/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kVirtualRanks = 5;

struct Voice {
  int64_t hash = -1;  // of the state: any 64 bits
  uint32_t flags = 0;
  float non_finite = 0;
};

// What all virtual ranks say when voices[r] is that of worker r.
GateDecision DecisionOf(const std::vector<Voice>& voices) {
  const std::vector<Slice> slices =
      *DivideRanks(kVirtualRanks, static_cast<int64_t>(voices.size()));
  std::vector<torch::Tensor> records;
  for (size_t rank = 0; rank < voices.size(); ++rank) {
    const auto hosted = static_cast<size_t>(slices[rank].ranks.size());
    records.push_back(
        GateRecords(std::vector<torch::Tensor>(hosted, torch::tensor({1.F, 2.F, 3.F})),
                    torch::tensor(voices[rank].non_finite), torch::tensor(0.07F),
                    voices[rank].flags, torch::tensor(voices[rank].hash, torch::kLong)));
  }
  return Decide(7, torch::cat(records), slices);
}

TEST(Gate, CommitsWhereAllIsWell) {
  const GateDecision decision = DecisionOf({{}, {.flags = 1}, {.flags = 4}});
  EXPECT_EQ(decision.iteration, 7);
  EXPECT_TRUE(decision.committed);
  EXPECT_EQ(decision.flags, 5u);
  EXPECT_EQ(decision.loss_mlm + decision.loss_itc + decision.loss_itm, 6);
  EXPECT_FALSE(decision.difference.has_value());
  EXPECT_FALSE(DecisionOf({{}, {.non_finite = 1}}).committed);
}

TEST(Gate, NamesTheWorkerWhoseStateDiffersInAnyBit) {
  for (int bit = 0; bit < 64; ++bit) {
    const auto flipped = static_cast<int64_t>(uint64_t{1} << bit);
    const GateDecision decision = DecisionOf({{.hash = 0}, {.hash = 0}, {.hash = flipped}});
    EXPECT_FALSE(decision.committed);
    ASSERT_TRUE(decision.difference.has_value()) << bit;
    EXPECT_THAT(decision.difference->minority_ranks, ElementsAre(2)) << bit;
  }
}

TEST(Gate, CountsWorkersNotVirtualRanks) {
  // Of five virtual ranks the first worker hosts two of three.
  const GateDecision decision = DecisionOf({{.hash = 1}, {.hash = 2}, {.hash = 2}, {.hash = 3}});
  EXPECT_THAT(decision.difference->minority_ranks, IsEmpty()) << "half is no majority";
  EXPECT_THAT(DecisionOf({{.hash = 1}, {.hash = 2}, {.hash = 2}}).difference->minority_ranks,
              ElementsAre(0));
  EXPECT_THAT(DecisionOf({{.hash = 3}, {.hash = 2}, {.hash = 2}, {.hash = 2}, {.hash = 1}})
                  .difference->minority_ranks,
              ElementsAre(0, 4));
}

TEST(Gate, NamesNobodyWithoutAMajority) {
  const GateDecision decision = DecisionOf({{.hash = std::numeric_limits<int64_t>::min()}, {}});
  ASSERT_TRUE(decision.difference.has_value());
  EXPECT_THAT(decision.difference->minority_ranks, IsEmpty());
  EXPECT_FALSE(DecisionOf({{}}).difference.has_value());
}

}  // namespace
}  // namespace albef
