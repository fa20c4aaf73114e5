#include "comm/sum_reduction.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "comm/nccl_communicator.h"
#include "tests/comm/nccl_ranks.h"
#include "tests/comm/ranks.h"

namespace albef {
namespace {

constexpr int64_t kVirtualRanks = 5, kNumel = 10'007;

// Sums of small whole numbers are exact in any order.
std::vector<torch::Tensor> Leaves() {
  torch::manual_seed(5);
  std::vector<torch::Tensor> leaves;
  for (int64_t v = 0; v < kVirtualRanks; ++v) {
    leaves.push_back(torch::randint(-1000, 1000, {kNumel}, torch::kFloat));
  }
  return leaves;
}

torch::Tensor Mean(const std::vector<torch::Tensor>& leaves) {
  return torch::stack(leaves).sum(0).div_(static_cast<double>(leaves.size()));
}

TEST(SumReduction, IsTheMeanForAnyNumberOfWorkers) {
  const std::vector<torch::Tensor> leaves = Leaves();
  for (int size = 1; size <= 4; ++size) {
    NcclRanks ranks(size);
    ranks.MustConnect();
    const std::vector<Slice> slices = DivideRanks(kVirtualRanks, size).value();
    RunRanks(size, [&](int rank) {
      const RankRange& hosted = slices[static_cast<size_t>(rank)].ranks;
      SumReduction reduction(size == 1 ? nullptr : &ranks.communicator(rank), slices,
                             torch::full({kNumel}, NAN),
                             {.bucket_bytes = 3000, .regions = {{0, 100}, {100, 9000}}});
      for (int step = 0; step < 2; ++step) {
        for (int64_t v = hosted.begin; v < hosted.end; ++v) {
          reduction.BeginLeaf().add_(leaves[static_cast<size_t>(v)]);
          reduction.MarkReady(100);  // from the back, as backward does
          reduction.MarkReady(0);
          reduction.AddLeaf();
        }
        const absl::StatusOr<torch::Tensor> mean = reduction.Finish();
        ASSERT_TRUE(mean.ok()) << mean.status();
        ASSERT_TRUE(mean->equal(Mean(leaves))) << "rank " << rank << " of " << size;
      }
    });
  }
}

TEST(SumReduction, BucketsLeaveBesideTheLastBackward) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const std::vector<Slice> slices = DivideRanks(2, 2).value();
  RunRanks(2, [&](int rank) {
    SumReduction reduction(&ranks.communicator(rank), slices, torch::zeros({1000}),
                           {.bucket_bytes = 2000, .regions = {{0, 500}, {500, 500}}});
    const torch::Tensor& leaf = reduction.BeginLeaf();
    leaf.narrow(0, 500, 500).fill_(rank + 1);
    reduction.MarkReady(500);
    ranks.nccl().AwaitStarted(rank, 1);  // the other half is not done yet
    leaf.narrow(0, 0, 500).fill_(rank + 3);
    reduction.MarkReady(0);
    reduction.AddLeaf();
    const absl::StatusOr<torch::Tensor> mean = reduction.Finish();
    ASSERT_TRUE(mean.ok()) << mean.status();
    EXPECT_TRUE(mean->narrow(0, 500, 500).eq(1.5).all().item<bool>());
    EXPECT_TRUE(mean->narrow(0, 0, 500).eq(3.5).all().item<bool>());
  });
}

TEST(SumReduction, AStepThatWasGivenUpEndsTheCommunicatorOnlyIfSomethingHasLeft) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const std::vector<Slice> slices = DivideRanks(4, 2).value();
  SumReduction reduction(&ranks.communicator(0), slices, torch::zeros({1000}), {});
  reduction.BeginLeaf();
  reduction.AddLeaf();
  reduction.Reset();
  EXPECT_TRUE(ranks.communicator(0).status().ok());
  for (int leaf = 0; leaf < 2; ++leaf) {
    reduction.BeginLeaf();
    reduction.AddLeaf();
  }
  reduction.Reset();
  EXPECT_THAT(ranks.communicator(0).status(),
              FailsWith(absl::StatusCode::kCancelled, "a step was given up"));
  reduction.BeginLeaf();
  reduction.AddLeaf();
  reduction.BeginLeaf();
  reduction.AddLeaf();
  EXPECT_FALSE(reduction.Finish().ok());
}

}  // namespace
}  // namespace albef
