#include "comm/local_communicator.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/comm/communicator_suite.h"
#include "tests/comm/ranks.h"

namespace albef {
namespace {

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kAborted = absl::StatusCode::kAborted;

Work Gather(Communicator& communicator, const std::string& name) {
  std::vector<torch::Tensor> gathered;
  for (int rank = 0; rank < communicator.size(); ++rank) gathered.push_back(torch::zeros(1));
  return communicator.AllGather(Lane::kMain, name, torch::ones(1), gathered);
}

class LocalRanks : public CommunicatorRanks {
 public:
  explicit LocalRanks(int size) : group_(size) {}
  Communicator& communicator(int rank) override { return group_.communicator(rank); }

 private:
  LocalGroup group_;
};

INSTANTIATE_TEST_SUITE_P(Local, CommunicatorSuite,
                         testing::Values([](int size) -> std::unique_ptr<CommunicatorRanks> {
                           return std::make_unique<LocalRanks>(size);
                         }));

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

TEST(LocalCommunicator, ARankThatLeavesAnOperationOutIsFoundAtTheNext) {
  LocalGroup group(3);
  RunRanks(3, [&](int rank) {
    Communicator& communicator = group.communicator(rank);
    const torch::Tensor tensor = torch::zeros(1);
    if (rank == 0) {
      EXPECT_TRUE(communicator.Exchange(Lane::kMain, "state", {{1, tensor}}, {}).Wait().ok());
    } else if (rank == 1) {
      EXPECT_TRUE(communicator.Exchange(Lane::kMain, "state", {}, {{0, tensor}}).Wait().ok());
    }
    EXPECT_FALSE(Gather(communicator, "gate").Wait().ok());
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

}  // namespace
}  // namespace albef
