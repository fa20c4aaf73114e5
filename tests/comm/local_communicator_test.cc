#include "comm/local_communicator.h"

#include <gtest/gtest.h>

#include "tests/comm/ranks.h"

namespace albef {
namespace {

using ::testing::ElementsAre;

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kAborted = absl::StatusCode::kAborted;

Work Gather(Communicator& communicator, const std::string& name) {
  std::vector<torch::Tensor> gathered;
  for (int rank = 0; rank < communicator.size(); ++rank) gathered.push_back(torch::zeros(1));
  return communicator.AllGather(Lane::kMain, name, torch::ones(1), gathered);
}

TEST(LocalCommunicator, CarriesOutAllCollectives) {
  for (int size = 1; size <= 5; ++size) {
    LocalGroup group(size);
    RunRanks(size, [&](int rank) {
      ExpectWorkingCollectives(group.communicator(rank), Lane::kMain);
      ExpectWorkingCollectives(group.communicator(rank), Lane::kGradients);
    });
  }
}

TEST(LocalCommunicator, LanesDoNotWaitForEachOther) {
  LocalGroup group(2);
  const torch::Tensor sent = torch::ones(1), received = torch::zeros(1), other = torch::zeros(1);
  const Work main_0 = group.communicator(0).Exchange(Lane::kMain, "a", {}, {{1, other}});
  const Work gradients_0 = group.communicator(0).Exchange(Lane::kGradients, "b", {{1, sent}}, {});
  const Work gradients_1 =
      group.communicator(1).Exchange(Lane::kGradients, "b", {}, {{0, received}});
  EXPECT_TRUE(gradients_1.Wait().ok());
  EXPECT_TRUE(gradients_0.Wait().ok());
  EXPECT_FALSE(main_0.Done());
  EXPECT_THAT(main_0.PendingPeers(), ElementsAre(1));
}

TEST(LocalCommunicator, ALostRankFailsItsPeersOperationsByName) {
  LocalGroup group(3);
  group.FailAt(1, 1, absl::AbortedError("killed"));
  RunRanks(3, [&](int rank) {
    Communicator& communicator = group.communicator(rank);
    ASSERT_TRUE(Gather(communicator, "first").Wait().ok());
    const absl::Status status = Gather(communicator, "second").Wait();
    if (rank == 1) {
      EXPECT_THAT(status, FailsWith(kAborted, "second: killed"));
    } else {
      EXPECT_THAT(status, FailsWith(kUnavailable, "second: peer rank 1: connection closed"));
    }
    EXPECT_FALSE(communicator.status().ok());
    EXPECT_THAT(Gather(communicator, "third").Wait(), FailsWith(status.code(), "third"));
  });
}

TEST(LocalCommunicator, AnAbortEndsAWaitOnAnotherThread) {
  LocalGroup group(2);
  group.HoldAt(1, 0);
  std::thread aborter([&] {
    group.AwaitOperation(0, 0);
    group.communicator(0).Abort(absl::AbortedError("generation 8"));
  });
  EXPECT_THAT(Gather(group.communicator(0), "gate").Wait(), FailsWith(kAborted, "generation 8"));
  aborter.join();
  EXPECT_THAT(Gather(group.communicator(1), "gate").Wait(), FailsWith(kUnavailable, "rank 0"));
}

TEST(LocalCommunicator, AWaitEndsAtItsDeadlineAndNamesWhoIsMissing) {
  LocalGroup group(3);
  group.HoldAt(2, 0);
  RunRanks(3, [&](int rank) {
    const Work work = Gather(group.communicator(rank), "gate");
    if (rank == 0) {
      EXPECT_THAT(work.Wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(1)),
                  FailsWith(absl::StatusCode::kDeadlineExceeded, "gate: still waiting for rank"));
      group.AwaitOperation(2, 0);
      group.Release(2);
    }
    EXPECT_TRUE(work.Wait().ok()) << "the operation goes on after a wait that was too short";
  });
}

TEST(LocalCommunicator, RanksThatDisagreeAboutASizeFailInsteadOfHanging) {
  LocalGroup group(2);
  RunRanks(2, [&](int rank) {
    Communicator& communicator = group.communicator(rank);
    const std::vector<torch::Tensor> gathered(2, torch::zeros(1 + rank));
    EXPECT_FALSE(
        communicator.AllGather(Lane::kMain, "gate", gathered[0].clone(), gathered).Wait().ok());
    EXPECT_FALSE(communicator.status().ok());
  });
}

TEST(LocalCommunicator, RefusesTensorsThatCannotBeSent) {
  LocalGroup group(2);
  Communicator& communicator = group.communicator(0);
  const auto send = [&](int peer, const torch::Tensor& tensor) {
    return communicator.Exchange(Lane::kMain, "x", {{peer, tensor}}, {}).Wait();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(send(0, torch::zeros(1)), FailsWith(kInvalid, "rank 0 is no peer"));
  EXPECT_THAT(send(2, torch::zeros(1)), FailsWith(kInvalid, "rank 2 is no peer"));
  EXPECT_THAT(send(1, torch::zeros({2, 2}).t()), FailsWith(kInvalid, "contiguous"));
  EXPECT_TRUE(communicator.status().ok()) << "nothing was started";
}

TEST(LocalCommunicator, CountsWhatItMoves) {
  LocalGroup group(3);
  RunRanks(3, [&](int rank) { ASSERT_TRUE(Gather(group.communicator(rank), "x").Wait().ok()); });
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(group.communicator(rank).traffic().bytes_sent, 8);
    EXPECT_EQ(group.communicator(rank).traffic().bytes_received, 8);
  }
}

}  // namespace
}  // namespace albef
