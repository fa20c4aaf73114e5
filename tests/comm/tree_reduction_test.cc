#include "comm/tree_reduction.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <random>

#include "comm/local_communicator.h"
#include "tests/comm/ranks.h"
#include "tests/comm/tree_mean.h"

namespace albef {
namespace {

constexpr int64_t kElements = 1100;

// Magnitudes spread over a few binades make every other order of addition visible; every fourth
// one's are spread far enough to swallow the others.
torch::Tensor Leaf(int64_t numel = kElements) {
  const torch::Tensor near = torch::randint(-12, 12, numel);
  const torch::Tensor far = torch::randint(-60, 60, numel);
  return torch::randn(numel) * torch::exp2(torch::where(torch::arange(numel) % 4 == 3, far, near));
}

std::vector<torch::Tensor> Arenas(int count, int64_t numel = kElements) {
  std::vector<torch::Tensor> arenas;
  for (int i = 0; i < count; ++i) arenas.push_back(torch::full(numel, NAN));
  return arenas;
}

bool SameBits(const torch::Tensor& a, const torch::Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

// What the rank hosts of the leaves, but for those kept. Returns how many that were.
int64_t AddLeaves(TreeReduction& reduction, const RankRange& ranks,
                  const std::vector<torch::Tensor>& leaves) {
  int64_t num_added = 0;
  for (int64_t v = ranks.begin; v < ranks.end; ++v) {
    if (reduction.Keeps(v)) continue;
    reduction.Leaf().copy_(leaves[static_cast<size_t>(v)]);
    reduction.AddLeaf();
    ++num_added;
  }
  return num_added;
}

std::vector<Slice> Divide(int64_t virtual_ranks, int64_t workers) {
  return DivideRanks(virtual_ranks, workers).value();
}

std::unique_ptr<TreeReduction> Reduction(Communicator* communicator,
                                         const std::vector<Slice>& slices,
                                         TreeReduction::Options options = {.bucket_bytes = 1024},
                                         int64_t numel = kElements) {
  const auto rank = static_cast<size_t>(communicator == nullptr ? 0 : communicator->rank());
  return std::make_unique<TreeReduction>(
      communicator, slices, KeptSums{.arenas = Arenas(NumGradientArenas(slices[rank]), numel)},
      std::move(options));
}

TEST(TreeReduction, HasTheBitsOfTheTreeForEveryNumberOfWorkers) {
  torch::manual_seed(5);
  for (int64_t virtual_ranks = 1; virtual_ranks <= 32; ++virtual_ranks) {
    std::vector<torch::Tensor> leaves;
    for (int64_t i = 0; i < virtual_ranks; ++i) leaves.push_back(Leaf());
    const torch::Tensor expected = TreeMean(leaves);
    for (int64_t workers = 1; workers <= virtual_ranks; ++workers) {
      SCOPED_TRACE(testing::Message() << virtual_ranks << " ranks on " << workers << " workers");
      const std::vector<Slice> slices = Divide(virtual_ranks, workers);
      LocalGroup group(static_cast<int>(workers));
      RunRanks(static_cast<int>(workers), [&](int rank) {
        const auto reduction = Reduction(&group.communicator(rank), slices);
        for (int step = 0; step < 2; ++step) {
          AddLeaves(*reduction, slices[static_cast<size_t>(rank)].ranks, leaves);
          const absl::StatusOr<torch::Tensor> mean = reduction->Finish();
          ASSERT_TRUE(mean.ok()) << mean.status();
          ASSERT_TRUE(SameBits(*mean, expected)) << "rank " << rank << " step " << step;
        }
      });
    }
  }
}

// What the survivors of a step have summed when one rank dies before it has anything to give.
std::vector<KeptSums> SumsOfSurvivors(const std::vector<torch::Tensor>& leaves,
                                      const std::vector<Slice>& slices, int victim) {
  const auto workers = static_cast<int>(slices.size());
  LocalGroup group(workers);
  std::vector<KeptSums> taken(slices.size());
  RunRanks(workers, [&](int rank) {
    if (rank == victim) {
      return group.communicator(rank).Abort(absl::UnavailableError("killed"));
    }
    const auto reduction = Reduction(&group.communicator(rank), slices);
    AddLeaves(*reduction, slices[static_cast<size_t>(rank)].ranks, leaves);
    ASSERT_FALSE(reduction->Finish().ok());
    std::optional<KeptSums> sums = reduction->Take();
    ASSERT_TRUE(sums.has_value());
    taken[static_cast<size_t>(rank)] = *std::move(sums);
  });
  taken.erase(taken.begin() + victim);
  return taken;
}

TEST(TreeReduction, GoesOnWithTheSumsOfAStepThatFailedForEveryNumberOfWorkersAndVictim) {
  torch::manual_seed(7);
  for (int64_t virtual_ranks = 2; virtual_ranks <= 9; ++virtual_ranks) {
    std::vector<torch::Tensor> leaves;
    for (int64_t i = 0; i < virtual_ranks; ++i) leaves.push_back(Leaf());
    const torch::Tensor expected = TreeMean(leaves);
    for (int workers = 2; workers <= virtual_ranks; ++workers) {
      for (int victim = 0; victim < workers; ++victim) {
        SCOPED_TRACE(testing::Message() << virtual_ranks << " ranks, victim " << victim << " of "
                                        << workers << " workers");
        std::vector<KeptSums> kept =
            SumsOfSurvivors(leaves, Divide(virtual_ranks, workers), victim);
        const std::vector<Slice> slices = Divide(virtual_ranks, workers - 1);
        std::atomic<int64_t> num_computed = 0;
        LocalGroup group(workers - 1);
        RunRanks(workers - 1, [&](int rank) {
          const Slice& slice = slices[static_cast<size_t>(rank)];
          KeptSums& own = kept[static_cast<size_t>(rank)];
          while (own.sums.size() + own.arenas.size() <
                 static_cast<size_t>(NumGradientArenas(slice))) {
            own.arenas.push_back(Arenas(1)[0]);
          }
          TreeReduction reduction(&group.communicator(rank), slices, std::move(own),
                                  {.bucket_bytes = 1024});
          for (int step = 0; step < 2; ++step) {
            const int64_t num_added = AddLeaves(reduction, slice.ranks, leaves);
            if (step == 0) num_computed += num_added;
            const absl::StatusOr<torch::Tensor> mean = reduction.Finish();
            ASSERT_TRUE(mean.ok()) << mean.status();
            ASSERT_TRUE(SameBits(*mean, expected)) << "rank " << rank << " step " << step;
          }
        });
        EXPECT_GT(num_computed, 0);
        // Elsewhere a sum may be left out for want of an arena.
        if (workers == 2 && std::has_single_bit(static_cast<uint64_t>(virtual_ranks))) {
          EXPECT_EQ(num_computed,
                    Divide(virtual_ranks, 2)[static_cast<size_t>(victim)].ranks.size());
        }
      }
    }
  }
}

TEST(TreeReduction, GivesNoSumsThatAreOverwritten) {
  constexpr int64_t kNumBuckets = 5;
  const std::vector<Slice> slices = Divide(2, 2);
  // Operations of the lane: exchange 0, exchange 1, gather 0, …
  for (int64_t operation = 0; operation < 2 * kNumBuckets; ++operation) {
    LocalGroup group(2);
    group.FailAt(1, operation, absl::UnavailableError("connection reset"));
    std::atomic<int> num_taken = 0;
    RunRanks(2, [&](int rank) {
      const auto reduction = Reduction(&group.communicator(rank), slices);
      const torch::Tensor leaf = torch::full(kElements, rank + 0.5);
      reduction->Leaf().copy_(leaf);
      reduction->AddLeaf();
      ASSERT_FALSE(reduction->Finish().ok());
      const std::optional<KeptSums> sums = reduction->Take();
      if (!sums) return;
      ++num_taken;
      EXPECT_TRUE(SameBits(sums->sums[0].sum, leaf)) << "rank " << rank;
    });
    if (operation == 0) {
      EXPECT_EQ(num_taken, 2);
    }
    if (operation > 2) {
      EXPECT_EQ(num_taken, 0) << "operation " << operation;
    }
  }
}

TEST(TreeReduction, SendsBucketsAsBackwardFillsThem) {
  torch::manual_seed(6);
  // Regions of odd sizes with padding between them, some over several buckets of 256 elements.
  const std::vector<ElementRange> regions = {{0, 1}, {64, 600}, {704, 60}, {768, 255}, {1024, 70}};
  std::vector<torch::Tensor> leaves;
  for (int i = 0; i < 5; ++i) {
    leaves.push_back(torch::zeros(kElements));
    for (const auto& [offset, numel] : regions) {
      leaves.back().narrow(0, offset, numel).copy_(Leaf(numel));
    }
  }
  const std::vector<Slice> slices = Divide(5, 2);
  const torch::Tensor expected = TreeMean(leaves);
  LocalGroup group(2);
  RunRanks(2, [&](int rank) {
    const auto reduction =
        Reduction(&group.communicator(rank), slices, {.bucket_bytes = 1024, .regions = regions});
    const RankRange ranks = slices[static_cast<size_t>(rank)].ranks;
    for (int step = 0; step < 2; ++step) {
      for (int64_t v = ranks.begin; v < ranks.end; ++v) {
        reduction->Leaf().zero_();
        for (auto region = regions.rbegin(); region != regions.rend(); ++region) {
          const auto [offset, numel] = *region;
          const torch::Tensor& leaf = leaves[static_cast<size_t>(v)];
          reduction->Leaf().narrow(0, offset, numel).copy_(leaf.narrow(0, offset, numel));
          reduction->MarkReady(offset);
          if (v + 1 == ranks.end && offset == 768 && step == 0) {
            // Elements from 844 on are final: the first bucket leaves while backward goes on.
            group.AwaitOperation(rank, 0);
          }
        }
        reduction->AddLeaf();
      }
      const absl::StatusOr<torch::Tensor> mean = reduction->Finish();
      ASSERT_TRUE(mean.ok()) << mean.status();
      ASSERT_TRUE(SameBits(*mean, expected));
    }
  });
}

TEST(TreeReduction, HasTheSameBitsWhateverIsMarkedReadyAndInWhichOrder) {
  torch::manual_seed(16);
  std::mt19937 random(16);
  std::vector<ElementRange> regions;
  for (int64_t offset = 0; offset < kElements; offset += 64) {
    regions.push_back({offset, std::min<int64_t>(60, kElements - offset)});
  }
  std::vector<torch::Tensor> leaves;
  for (int i = 0; i < 6; ++i) leaves.push_back(Leaf());
  const torch::Tensor expected = TreeMean(leaves);
  for (int trial = 0; trial < 50; ++trial) {
    const int workers = 2 + trial % 5;
    const std::vector<Slice> slices = Divide(6, workers);
    std::vector<std::vector<int64_t>> orders;  // by rank; some regions get no gradient
    for (int rank = 0; rank < workers; ++rank) {
      std::vector<int64_t>& order = orders.emplace_back();
      for (const ElementRange& region : regions) {
        if (random() % 8 != 0) order.push_back(region.offset);
      }
      std::shuffle(order.begin(), order.end(), random);
    }
    LocalGroup group(workers);
    RunRanks(workers, [&](int rank) {
      const auto reduction =
          Reduction(&group.communicator(rank), slices, {.bucket_bytes = 1024, .regions = regions});
      const RankRange ranks = slices[static_cast<size_t>(rank)].ranks;
      for (int64_t v = ranks.begin; v < ranks.end; ++v) {
        reduction->Leaf().copy_(leaves[static_cast<size_t>(v)]);
        for (const int64_t offset : orders[static_cast<size_t>(rank)]) {
          reduction->MarkReady(offset);
        }
        reduction->AddLeaf();
      }
      const absl::StatusOr<torch::Tensor> mean = reduction->Finish();
      ASSERT_TRUE(mean.ok()) << mean.status();
      ASSERT_TRUE(SameBits(*mean, expected)) << "rank " << rank << " trial " << trial;
    });
  }
}

TEST(TreeReduction, MovesWhatARingMovesWhereEverySliceIsOneSubtree) {
  constexpr int64_t kNumel = 16 * 12 * 64;
  for (const auto& [virtual_ranks, workers] :
       std::vector<std::pair<int64_t, int64_t>>{{2, 2}, {8, 2}, {8, 4}, {3, 3}, {12, 3}, {6, 6}}) {
    const std::vector<Slice> slices = Divide(virtual_ranks, workers);
    LocalGroup group(static_cast<int>(workers));
    RunRanks(static_cast<int>(workers), [&](int rank) {
      const auto reduction =
          Reduction(&group.communicator(rank), slices, {.bucket_bytes = 16 * 12 * 4}, kNumel);
      for (int64_t i = 0; i < slices[static_cast<size_t>(rank)].ranks.size(); ++i) {
        reduction->Leaf().zero_();
        reduction->AddLeaf();
      }
      ASSERT_TRUE(reduction->Finish().ok());
      const int64_t ring_bytes = 2 * (workers - 1) * kNumel * 4 / workers;
      EXPECT_EQ(reduction->traffic().bytes_sent, ring_bytes);
      EXPECT_EQ(reduction->traffic().bytes_received, ring_bytes);
      EXPECT_EQ(group.communicator(rank).traffic().bytes_sent, ring_bytes);
      EXPECT_EQ(group.communicator(rank).traffic().bytes_received, ring_bytes);
    });
  }
}

TEST(TreeReduction, AloneNeedsNoCommunicatorAndNoMemoryBesideTheArenas) {
  const std::vector<torch::Tensor> leaves = {Leaf(), Leaf(), Leaf()};
  const auto reduction = Reduction(nullptr, Divide(3, 1));
  for (const torch::Tensor& leaf : leaves) {
    reduction->Leaf().copy_(leaf);
    reduction->MarkReady(0);
    reduction->AddLeaf();
  }
  EXPECT_TRUE(SameBits(reduction->Finish().value(), TreeMean(leaves)));
  EXPECT_EQ(reduction->buffer_bytes(), 0);
}

TEST(TreeReduction, AGivenUpStepLeavesNoTrace) {
  const std::vector<Slice> slices = Divide(4, 2);
  LocalGroup group(2);
  RunRanks(2, [&](int rank) {
    const auto reduction = Reduction(&group.communicator(rank), slices);
    reduction->AddLeaf();
    reduction->Reset();
    for (int i = 0; i < 2; ++i) {
      reduction->Leaf().fill_(2.0F);
      reduction->AddLeaf();
    }
    const absl::StatusOr<torch::Tensor> mean = reduction->Finish();
    ASSERT_TRUE(mean.ok()) << mean.status();
    EXPECT_TRUE(mean->eq(2).all().item<bool>());
  });
}

TEST(TreeReduction, ALostWorkerFailsTheOthersByName) {
  // At every operation of a step in turn: five buckets, two operations each.
  for (int64_t operation = 0; operation < 10; ++operation) {
    LocalGroup group(3);
    group.FailAt(2, operation, absl::AbortedError("killed"));
    RunRanks(3, [&](int rank) {
      const auto reduction = Reduction(&group.communicator(rank), Divide(3, 3));
      reduction->AddLeaf();
      const absl::Status status = reduction->Finish().status();
      if (rank == 2) {
        EXPECT_THAT(status, FailsWith(absl::StatusCode::kAborted, "killed"));
        return;
      }
      // Who has all the lost one's last contribution by then may have finished.
      if (operation == 9 && status.ok()) return;
      EXPECT_THAT(status, FailsWith(absl::StatusCode::kUnavailable, "peer rank 2"));
      EXPECT_THAT(status, FailsWith(absl::StatusCode::kUnavailable, "of gradients, bucket"));
      EXPECT_FALSE(reduction->Finish().ok()) << "an error is final";
    });
  }
}

TEST(TreeReduction, GivingUpAStepUnderWayAbortsIt) {
  LocalGroup group(2);
  group.HoldAt(1, 0);
  RunRanks(2, [&](int rank) {
    const auto reduction = Reduction(&group.communicator(rank), Divide(2, 2));
    reduction->AddLeaf();
    if (rank == 1) {
      group.AwaitOperation(0, 0);
      group.AwaitOperation(1, 0);
      return;  // destroys the reduction in the middle of a step
    }
    EXPECT_THAT(reduction->Finish().status(),
                FailsWith(absl::StatusCode::kUnavailable, "peer rank 1"));
    reduction->Reset();
  });
}

TEST(TreeReduction, ResetWaitsForBucketsThatHaveLeft) {
  LocalGroup group(2);
  group.HoldAt(1, 0);
  RunRanks(2, [&](int rank) {
    const auto reduction = Reduction(&group.communicator(rank), Divide(2, 2),
                                     {.bucket_bytes = 1024, .regions = {{0, 10}, {1024, 10}}});
    reduction->MarkReady(1024);
    group.AwaitOperation(rank, 0);
    if (rank == 0) {
      reduction->Reset();
      EXPECT_FALSE(group.communicator(0).status().ok());
    } else {
      reduction->AddLeaf();
      EXPECT_THAT(reduction->Finish().status(),
                  FailsWith(absl::StatusCode::kUnavailable, "peer rank 0"));
    }
  });
}

TEST(TreeReduction, RefusesMisuse) {
  EXPECT_THROW(TreeReduction(nullptr, Divide(4, 2), {.arenas = Arenas(2)}, {}), c10::Error);
  EXPECT_THROW(TreeReduction(nullptr, Divide(4, 1), {.arenas = Arenas(2)}, {}), c10::Error);
  EXPECT_THROW(
      TreeReduction(nullptr, Divide(1, 1), {.arenas = Arenas(1)}, {.regions = {{0, 8}, {4, 8}}}),
      c10::Error);
  TreeReduction reduction(nullptr, Divide(2, 1), {.arenas = Arenas(2)}, {});
  reduction.AddLeaf();
  EXPECT_THROW(reduction.Finish().IgnoreError(), c10::Error);
  reduction.AddLeaf();
  EXPECT_THROW(reduction.AddLeaf(), c10::Error);
}

TEST(ReductionPlan, CutsBucketsFromTheBackAndSharesThemOnCacheLines) {
  const ReductionPlan plan(1000, 400, 3, {{900, 100}, {0, 201}, {256, 0}});
  ASSERT_EQ(plan.num_buckets(), 3U);
  EXPECT_EQ(plan.bucket(0), (ElementRange{600, 400}));
  EXPECT_EQ(plan.bucket(2), (ElementRange{0, 200}));
  for (size_t bucket = 0; bucket < 3; ++bucket) {
    int64_t end = plan.bucket(bucket).offset;
    for (int owner = 0; owner < 3; ++owner) {
      const ElementRange share = plan.Share(bucket, owner);
      EXPECT_EQ(share.offset, end);
      EXPECT_EQ((share.offset - plan.bucket(bucket).offset) % 16, 0);
      end = share.end();
    }
    EXPECT_EQ(end, plan.bucket(bucket).end());
  }
  EXPECT_EQ(plan.RegionAt(0), 0);
  EXPECT_EQ(plan.RegionAt(900), 1);
  EXPECT_EQ(plan.RegionAt(256), -1) << "an empty region is none";
  EXPECT_EQ(plan.RegionsPerBucket(), (std::vector<int64_t>{1, 1, 1}));
}

}  // namespace
}  // namespace albef
