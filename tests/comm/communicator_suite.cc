#include "tests/comm/communicator_suite.h"

#include <torch/utils.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "comm/slices.h"
#include "comm/tree_reduction.h"
#include "tests/comm/ranks.h"
#include "tests/comm/tree_mean.h"

namespace albef {
namespace {

using ::testing::ElementsAre;

constexpr auto kAborted = absl::StatusCode::kAborted;

std::vector<torch::Tensor> Arenas(int count, int64_t numel) {
  std::vector<torch::Tensor> arenas;
  for (int i = 0; i < count; ++i) arenas.push_back(torch::full(numel, NAN));
  return arenas;
}

TEST_P(CommunicatorSuite, CarriesOutAllCollectives) {
  for (int size = 1; size <= 5; ++size) {
    const auto ranks = GetParam()(size);
    RunRanks(size, [&](int rank) {
      ExpectWorkingCollectives(ranks->communicator(rank), Lane::kMain);
      ExpectWorkingCollectives(ranks->communicator(rank), Lane::kGradients);
    });
  }
}

TEST_P(CommunicatorSuite, LanesDoNotWaitForEachOther) {
  const auto ranks = GetParam()(2);
  const torch::Tensor sent = torch::ones(1), received = torch::zeros(1), other = torch::zeros(1);
  Communicator& rank_0 = ranks->communicator(0);
  const Work main_0 = rank_0.Exchange(Lane::kMain, "a", {}, {{1, other}});
  const Work gradients_0 = rank_0.Exchange(Lane::kGradients, "b", {{1, sent}}, {});
  const Work gradients_1 =
      ranks->communicator(1).Exchange(Lane::kGradients, "b", {}, {{0, received}});
  EXPECT_TRUE(gradients_1.Wait().ok());
  EXPECT_TRUE(gradients_0.Wait().ok());
  EXPECT_FALSE(main_0.Done());
  EXPECT_THAT(main_0.PendingPeers(), ElementsAre(1));
}

TEST_P(CommunicatorSuite, ARankWithNothingToExchangeTakesPartAllTheSame) {
  const auto ranks = GetParam()(3);
  RunRanks(3, [&](int rank) {
    Communicator& communicator = ranks->communicator(rank);
    const torch::Tensor tensor = torch::full(7, rank);
    std::vector<Communicator::Transfer> sends, receives;
    if (rank == 0) sends = {{.peer = 1, .tensor = tensor}};
    if (rank == 1) receives = {{.peer = 0, .tensor = tensor}};
    ASSERT_TRUE(communicator.Exchange(Lane::kMain, "state", sends, receives).Wait().ok());
    EXPECT_EQ(tensor[6].item<float>(), rank == 2 ? 2 : 0);
    ExpectAllGathers(communicator);
  });
}

TEST_P(CommunicatorSuite, LargeTensorsCrossInBothDirectionsAtOnce) {
  constexpr int kSize = 3;
  const auto ranks = GetParam()(kSize);
  RunRanks(kSize, [&](int rank) {
    std::vector<Communicator::Transfer> sends, receives;
    for (int peer = 0; peer < kSize; ++peer) {
      if (peer == rank) continue;
      for (int i = 0; i < 2; ++i) {
        sends.push_back({peer, torch::full({3'000'001}, 10 * rank + i, torch::kFloat)});
        receives.push_back({peer, torch::empty({3'000'001})});
      }
    }
    const Work work = ranks->communicator(rank).Exchange(Lane::kMain, "x", sends, receives);
    ASSERT_TRUE(work.Wait().ok()) << work.Wait();
    for (size_t i = 0; i < receives.size(); ++i) {
      const auto expected = static_cast<float>(10 * receives[i].peer + static_cast<int>(i % 2));
      ASSERT_TRUE(receives[i].tensor.eq(expected).all().item<bool>());
    }
  });
}

TEST_P(CommunicatorSuite, TheTreeReductionHasTheBitsOfTheTree) {
  constexpr int64_t kVirtualRanks = 7, kNumel = 100'003;
  torch::manual_seed(3);
  std::vector<torch::Tensor> leaves;
  for (int64_t v = 0; v < kVirtualRanks; ++v) {
    leaves.push_back(torch::randn(kNumel) * torch::exp2(torch::randint(-12, 12, kNumel)));
  }
  const torch::Tensor expected = TreeMean(leaves);
  for (int size = 1; size <= 4; ++size) {
    const auto ranks = GetParam()(size);
    const std::vector<Slice> slices = DivideRanks(kVirtualRanks, size).value();
    RunRanks(size, [&](int rank) {
      const Slice& slice = slices[static_cast<size_t>(rank)];
      TreeReduction reduction(&ranks->communicator(rank), slices,
                              {.arenas = Arenas(NumGradientArenas(slice), kNumel)},
                              {.bucket_bytes = 30'000});
      for (int step = 0; step < 2; ++step) {
        for (int64_t v = slice.ranks.begin; v < slice.ranks.end; ++v) {
          reduction.Leaf().copy_(leaves[static_cast<size_t>(v)]);
          reduction.AddLeaf();
        }
        const absl::StatusOr<torch::Tensor> mean = reduction.Finish();
        ASSERT_TRUE(mean.ok()) << mean.status();
        ASSERT_EQ(std::memcmp(mean->data_ptr(), expected.data_ptr(), expected.nbytes()), 0)
            << "rank " << rank << " of " << size << ", step " << step;
      }
    });
  }
}

TEST_P(CommunicatorSuite, AWaitEndsAtItsDeadlineAndNamesWhoIsMissing) {
  const auto ranks = GetParam()(2);
  const torch::Tensor sent = torch::ones(1), received = torch::zeros(1);
  const Work work = ranks->communicator(0).Exchange(Lane::kMain, "gate", {}, {{1, received}});
  EXPECT_THAT(work.Wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(1)),
              FailsWith(absl::StatusCode::kDeadlineExceeded, "gate: still waiting for rank 1"));
  const Work other = ranks->communicator(1).Exchange(Lane::kMain, "gate", {{0, sent}}, {});
  EXPECT_TRUE(work.Wait().ok()) << "the operation goes on after a wait that was too short";
  EXPECT_TRUE(other.Wait().ok());
}

TEST_P(CommunicatorSuite, AnAbortEndsEverythingOnBothSides) {
  const auto ranks = GetParam()(2);
  Communicator& rank_0 = ranks->communicator(0);
  Communicator& rank_1 = ranks->communicator(1);
  const Work pending_0 = rank_0.Exchange(Lane::kMain, "gate", {}, {{1, torch::zeros(1)}});
  const Work pending_1 = rank_1.Exchange(Lane::kGradients, "gather", {}, {{0, torch::zeros(1)}});
  rank_0.Abort(absl::AbortedError("generation 8"));
  EXPECT_THAT(pending_0.Wait(), FailsWith(kAborted, "gate: generation 8"));
  EXPECT_THAT(rank_0.status(), FailsWith(kAborted, "generation 8"));
  EXPECT_THAT(rank_0.Exchange(Lane::kMain, "later", {}, {{1, torch::zeros(1)}}).Wait(),
              FailsWith(kAborted, "later: generation 8"));
  EXPECT_THAT(pending_1.Wait(), FailsWith(absl::StatusCode::kUnavailable, "gather: peer rank 0"));
  EXPECT_FALSE(rank_1.status().ok());
  rank_1.Abort(absl::AbortedError("too late"));
  EXPECT_THAT(rank_1.status(), FailsWith(absl::StatusCode::kUnavailable, "peer rank 0"))
      << "the first reason stays";
}

TEST_P(CommunicatorSuite, RanksThatDisagreeAboutASizeFailInsteadOfHanging) {
  const auto ranks = GetParam()(2);
  RunRanks(2, [&](int rank) {
    Communicator& communicator = ranks->communicator(rank);
    const std::vector<torch::Tensor> gathered(2, torch::zeros(1 + rank));
    EXPECT_FALSE(
        communicator.AllGather(Lane::kMain, "gate", gathered[0].clone(), gathered).Wait().ok());
    EXPECT_FALSE(communicator.status().ok());
  });
}

TEST_P(CommunicatorSuite, RefusesTensorsThatCannotBeSent) {
  const auto ranks = GetParam()(2);
  Communicator& communicator = ranks->communicator(0);
  const auto send = [&](int peer, const torch::Tensor& tensor) {
    return communicator.Exchange(Lane::kMain, "x", {{peer, tensor}}, {}).Wait();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(send(0, torch::zeros(1)), FailsWith(kInvalid, "rank 0 is no peer"));
  EXPECT_THAT(send(2, torch::zeros(1)), FailsWith(kInvalid, "rank 2 is no peer"));
  EXPECT_THAT(send(1, torch::zeros({2, 2}).t()), FailsWith(kInvalid, "contiguous"));
  EXPECT_TRUE(communicator.status().ok()) << "nothing was started";
}

TEST_P(CommunicatorSuite, CountsWhatItMoves) {
  const auto ranks = GetParam()(3);
  RunRanks(3, [&](int rank) {
    std::vector<torch::Tensor> gathered;
    for (int peer = 0; peer < 3; ++peer) gathered.push_back(torch::zeros(1));
    Communicator& communicator = ranks->communicator(rank);
    ASSERT_TRUE(communicator.AllGather(Lane::kMain, "x", torch::ones(1), gathered).Wait().ok());
  });
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(ranks->communicator(rank).traffic().bytes_sent, 8);
    EXPECT_EQ(ranks->communicator(rank).traffic().bytes_received, 8);
  }
}

}  // namespace
}  // namespace albef
