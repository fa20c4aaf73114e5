#include "comm/nccl_communicator.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/comm/communicator_suite.h"
#include "tests/comm/fake_nccl.h"
#include "tests/comm/nccl_ranks.h"
#include "tests/comm/ranks.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using Connected = NcclRanks::Connected;

constexpr auto kAborted = absl::StatusCode::kAborted;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

std::unique_ptr<CommunicatorRanks> MakeRanks(int size) {
  auto ranks = std::make_unique<NcclRanks>(size);
  ranks->MustConnect();
  return ranks;
}

std::unique_ptr<CommunicatorRanks> MakeLaggingRanks(int size) {
  auto ranks = std::make_unique<NcclRanks>(size);
  ranks->nccl().Lag(5);
  ranks->MustConnect();
  return ranks;
}

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorSuite, testing::Values(MakeRanks, MakeLaggingRanks),
                         [](const auto& instance) {
                           return instance.index == 0 ? "Prompt" : "Lagging";
                         });

Work Receive(Communicator& communicator, Lane lane, const std::string& name, int peer) {
  return communicator.Exchange(lane, name, {}, {{peer, torch::zeros(1)}});
}

TEST(NcclCommunicator, StartsAfterWhatTheCallersStreamHolds) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const torch::Tensor sent = torch::zeros(4), received = torch::zeros(4);
  FakeNccl::HoldCurrent(ranks.device(0));
  const Work send = ranks.communicator(0).Exchange(Lane::kMain, "x", {{1, sent}}, {});
  const Work receive = ranks.communicator(1).Exchange(Lane::kMain, "x", {}, {{0, received}});
  ranks.nccl().AwaitStarted(0, 1);
  ranks.nccl().AwaitStarted(1, 1);
  EXPECT_FALSE(receive.Done());
  sent.fill_(7);  // what the stream was still about to compute
  FakeNccl::ReleaseCurrent(ranks.device(0));
  ASSERT_TRUE(receive.Wait().ok());
  ASSERT_TRUE(send.Wait().ok());
  EXPECT_TRUE(received.eq(7).all().item<bool>());
}

TEST(NcclCommunicator, SumsOverAllRanks) {
  for (int size = 1; size <= 4; ++size) {
    NcclRanks ranks(size);
    ranks.MustConnect();
    RunRanks(size, [&](int rank) {
      for (const auto type : {torch::kFloat32, torch::kFloat64, torch::kBFloat16, torch::kInt64}) {
        const torch::Tensor values = torch::full({100}, rank + 1, type);
        const Work work = ranks.communicator(rank).Sum(Lane::kGradients, "sum", values);
        ASSERT_TRUE(work.Wait().ok()) << work.Wait();
        ASSERT_TRUE(values.eq(size * (size + 1) / 2).all().item<bool>());
      }
    });
    EXPECT_THAT(ranks.communicator(0).Sum(Lane::kMain, "sum", torch::zeros(2, torch::kBool)).Wait(),
                FailsWith(absl::StatusCode::kInvalidArgument, "sum: expected numbers"));
  }
}

TEST(NcclCommunicator, DividesWhatIsTooMuchForOneGroup) {
  constexpr int kTensors = 3000;
  NcclRanks ranks(3);
  ranks.MustConnect();
  RunRanks(3, [&](int rank) {
    std::vector<Communicator::Transfer> sends, receives;
    for (int i = 0; i < kTensors; ++i) {
      for (int peer = 0; peer < 3; ++peer) {
        if (peer == rank) continue;
        sends.push_back({peer, torch::full({1 + i % 3}, kTensors * rank + i, torch::kFloat)});
        receives.push_back({peer, torch::zeros({1 + i % 3})});
      }
    }
    const Work work = ranks.communicator(rank).Exchange(Lane::kMain, "state", sends, receives);
    ASSERT_TRUE(work.Wait().ok()) << work.Wait();
    for (size_t i = 0; i < receives.size(); ++i) {
      const auto expected =
          static_cast<float>(kTensors * receives[i].peer + static_cast<int>(i / 2));
      ASSERT_TRUE(receives[i].tensor.eq(expected).all().item<bool>());
    }
  });
}

TEST(NcclCommunicator, AnAbortReturnsAtOnceWhileAnOperationHangs) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  ranks.nccl().Hang(1);
  const Work send = ranks.communicator(1).Exchange(Lane::kMain, "x", {{0, torch::ones(1)}}, {});
  const Work receive = Receive(ranks.communicator(0), Lane::kMain, "x", 1);
  ranks.nccl().AwaitStarted(0, 1);
  ranks.nccl().AwaitStarted(1, 1);
  ranks.communicator(0).Abort(absl::AbortedError("generation 8"));
  EXPECT_THAT(receive.Wait(), FailsWith(kAborted, "x: generation 8"));
  EXPECT_THAT(send.Wait(), FailsWith(kUnavailable, "x: peer rank 0"));
}

TEST(NcclCommunicator, AnAbortEndsAWaitOnAnotherThread) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const Work work = Receive(ranks.communicator(0), Lane::kMain, "gate", 1);
  std::thread aborter([&] {
    ranks.nccl().AwaitStarted(0, 1);
    ranks.communicator(0).Abort(absl::AbortedError("generation 8"));
  });
  EXPECT_THAT(work.Wait(), FailsWith(kAborted, "gate: generation 8"));
  aborter.join();
}

TEST(NcclCommunicator, NothingIsWrittenOnceAnAbortHasReturned) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const torch::Tensor received = torch::zeros(4);
  const Work receive = ranks.communicator(0).Exchange(Lane::kMain, "x", {}, {{1, received}});
  ranks.nccl().AwaitStarted(0, 1);
  ranks.communicator(0).Abort(absl::AbortedError("generation 8"));
  ranks.communicator(1).Exchange(Lane::kMain, "x", {{0, torch::ones(4)}}, {}).Wait().IgnoreError();
  EXPECT_TRUE(received.eq(0).all().item<bool>());
}

TEST(NcclCommunicator, ADeadPeerIsNoticedByTheMeshAndNamed) {
  NcclRanks ranks(3);
  ranks.MustConnect();
  const Work work = Receive(ranks.communicator(0), Lane::kGradients, "exchange", 1);
  const Work other = Receive(ranks.communicator(2), Lane::kMain, "gate", 0);
  ranks.mesh().Kill(1);
  EXPECT_THAT(work.Wait(), FailsWith(kUnavailable, "exchange: peer rank 1"));
  EXPECT_FALSE(other.Wait().ok()) << "whoever is told first, rank 1 or rank 0 that aborts";
  ranks.Destroy(1);
}

TEST(NcclCommunicator, LeavingTheGenerationAbortsIt) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  const Work work = Receive(ranks.communicator(0), Lane::kMain, "gate", 1);
  ranks.mesh().server(0).Leave({1, 1}, absl::AbortedError("prepare 2"));
  EXPECT_THAT(work.Wait(), FailsWith(kAborted, "gate: prepare 2"));
}

TEST(NcclCommunicator, AnErrorOfNcclsFailsAllThatIsPendingUnderTheNameOfTheOldest) {
  NcclRanks ranks(3);
  ranks.MustConnect();
  const Work gate = Receive(ranks.communicator(0), Lane::kMain, "gate", 2);
  const Work features = Receive(ranks.communicator(0), Lane::kMain, "features", 1);
  const Work gather = Receive(ranks.communicator(0), Lane::kGradients, "gather", 1);
  ranks.nccl().AwaitStarted(0, 3);
  ranks.nccl().ReportError(0, NcclResult::kRemoteError);
  for (const auto& [name, work] : {std::pair("gate: ", gate), std::pair("features: ", features),
                                   std::pair("gather: ", gather)}) {
    EXPECT_THAT(work.Wait(),
                FailsWith(kUnavailable, std::string(name) +
                                            "NCCL: remote process exited or there was a network "
                                            "error (the last error) in "));
  }
  EXPECT_EQ(gate.Wait().message().substr(6), gather.Wait().message().substr(8)) << "one reason";
  EXPECT_THAT(ranks.communicator(0).status(), FailsWith(kUnavailable, ", waiting for rank "));
  EXPECT_FALSE(Receive(ranks.communicator(0), Lane::kMain, "later", 1).Wait().ok());
  EXPECT_THAT(Receive(ranks.communicator(1), Lane::kMain, "gate", 0).Wait(),
              FailsWith(kUnavailable, "gate: peer rank 0"));
}

TEST(NcclCommunicator, AnErrorOfNcclsIsNoticedWhereNothingIsPending) {
  NcclRanks ranks(2);
  ranks.MustConnect();
  ranks.nccl().ReportError(1, NcclResult::kSystemError);
  EXPECT_THAT(Receive(ranks.communicator(0), Lane::kMain, "gate", 1).Wait(),
              FailsWith(kUnavailable, "gate: peer rank 1"));
  EXPECT_THAT(ranks.communicator(1).status(),
              FailsWith(kUnavailable, "NCCL: unhandled system error"));
}

TEST(NcclCommunicator, ARankThatCannotConnectFailsAll) {
  NcclRanks ranks(3);
  ranks.nccl().FailInit(1, NcclResult::kSystemError);
  const std::vector<Connected> connected = ranks.Connect();
  EXPECT_THAT(connected[0].status(), FailsWith(kUnavailable, "peer rank"));
  EXPECT_THAT(connected[1].status(),
              FailsWith(kUnavailable,
                        "NCCL: unhandled system error (the last error) while connecting 3 ranks"));
  EXPECT_THAT(connected[2].status(), FailsWith(kUnavailable, "peer rank"));
  EXPECT_EQ(ranks.nccl().num_communicators(), 0);
}

TEST(NcclCommunicator, AConnectionThatHangsEndsAtItsDeadline) {
  NcclRanks ranks(2);
  ranks.nccl().HangInit(0);
  ranks.nccl().HangInit(1);
  const std::vector<Connected> connected = ranks.Connect(1, milliseconds(200));
  int late = 0;
  for (const Connected& each : connected) {
    ASSERT_FALSE(each.ok());
    late += absl::IsDeadlineExceeded(each.status());
  }
  EXPECT_GE(late, 1) << "the first one; another may hear of it before its own deadline";
  const Connected& first =
      absl::IsDeadlineExceeded(connected[0].status()) ? connected[0] : connected[1];
  EXPECT_THAT(first.status(), FailsWith(absl::StatusCode::kDeadlineExceeded,
                                        "is still not connected with the other 1; NCCL_DEBUG"));
  EXPECT_EQ(ranks.nccl().num_communicators(), 0);
}

TEST(NcclCommunicator, LeavingTheGenerationEndsAConnectionThatHangs) {
  NcclRanks ranks(2);
  ranks.nccl().HangInit(0);
  ranks.nccl().HangInit(1);
  std::thread leaver([&] {
    // Until both have come so far.
    while (ranks.nccl().num_communicators() < 4) std::this_thread::yield();
    ranks.mesh().server(0).Leave({1, 1}, absl::AbortedError("prepare 2"));
  });
  const std::vector<Connected> connected = ranks.Connect();
  leaver.join();
  EXPECT_THAT(connected[0].status(), FailsWith(kAborted, "prepare 2"));
  EXPECT_THAT(connected[1].status(), FailsWith(kUnavailable, "peer rank 0"));
}

TEST(NcclCommunicator, GenerationsFollowEachOtherWithoutLeavingAnythingBehind) {
  NcclRanks ranks(2);
  const auto num_threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
  };
  int64_t threads_before = 0;
  for (int64_t generation = 1; generation <= 200; ++generation) {
    ranks.MustConnect(generation);
    if (generation == 20) threads_before = num_threads();
    const Work pending = Receive(ranks.communicator(0), Lane::kGradients, "gather", 1);
    RunRanks(2, [&](int rank) { ExpectAllGathers(ranks.communicator(rank)); });
    ranks.communicator(generation % 2).Abort(absl::AbortedError("next"));
    ASSERT_FALSE(pending.Wait().ok());
  }
  EXPECT_EQ(ranks.nccl().num_ids(), 200 * kNumLanes);
  EXPECT_LE(ranks.nccl().num_communicators(), 2 * kNumLanes);
  EXPECT_LE(num_threads(), threads_before + 8);
}

TEST(NcclCommunicator, ADriverThatDoesNotLetGoIsLeftBehind) {
  NcclRanks ranks(2);
  ranks.MustConnect(1, milliseconds(50));
  ranks.nccl().HangAbort(0);
  ranks.communicator(0).Abort(absl::AbortedError("generation 8"));
  ranks.Destroy(0);
  EXPECT_THAT(Receive(ranks.communicator(1), Lane::kMain, "gate", 0).Wait(),
              FailsWith(kUnavailable, "gate: peer rank 0"));
  ranks.Destroy(1);
  ranks.nccl().Release(0);
  // The threads that were left behind.
  while (ranks.nccl().num_communicators() > 0) std::this_thread::yield();
}

}  // namespace
}  // namespace albef
