#include "comm/mesh_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/unreachable_peers.h"
#include "tests/comm/mesh_ranks.h"
#include "tests/comm/tcp_proxy.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kAborted = absl::StatusCode::kAborted;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;

// Longer than anything here takes, so that a test that hangs fails with a message.
Deadline Soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(30); }

MATCHER_P2(FailsWith, code, text, "") {
  const absl::Status& status = arg;
  *result_listener << status;
  return status.code() == code && status.message().find(text) != absl::string_view::npos;
}

using Block = std::shared_ptr<std::vector<std::byte>>;

Block MakeBlock(size_t size, int value = 0) {
  return std::make_shared<std::vector<std::byte>>(size, static_cast<std::byte>(value));
}
MeshGroup::Send To(int peer, const Block& block) { return {peer, *block, block}; }
MeshGroup::Receive From(int peer, const Block& block) { return {peer, *block, block}; }

// Both ranks send each other `size` bytes.
std::pair<Work, Block> Swap(MeshGroup& group, Lane lane, const std::string& name, size_t size) {
  const int peer = 1 - group.rank();
  const Block received = MakeBlock(size);
  return {group.Exchange(lane, name, {To(peer, MakeBlock(size, 10 + group.rank()))},
                         {From(peer, received)}),
          received};
}

std::string Address(MeshRanks& ranks, int rank) { return ranks.server(rank).address(); }

TEST(MeshGroup, ALoneRankNeedsNobody) {
  MeshRanks ranks(1);
  auto groups = ranks.Join(1);
  EXPECT_EQ(groups[0]->size(), 1);
  EXPECT_TRUE(groups[0]->Exchange(Lane::kMain, "nothing", {}, {}).Wait(Soon()).ok());
  groups[0]->Abort(absl::AbortedError("stop"));
  EXPECT_THAT(groups[0]->Exchange(Lane::kMain, "nothing", {}, {}).Wait(Soon()),
              FailsWith(kAborted, "nothing: stop"));
}

TEST(MeshGroup, CarriesManyTransfersOfAnySizeBetweenFourRanksOnBothLanesAtOnce) {
  constexpr int kSize = 4;
  MeshRanks ranks(kSize);
  auto groups = ranks.Join(1);
  // Sizes and contents follow from (lane, operation, from, to), so that each side knows them.
  const auto size_of = [](int lane, int operation, int from, int to) -> size_t {
    std::mt19937 generator(
        static_cast<unsigned>(((operation * kNumLanes + lane) * kSize + from) * kSize + to));
    const size_t exponent = generator() % 22;
    return generator() % (size_t{2} << exponent);
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kSize; ++rank) {
    for (int lane = 0; lane < kNumLanes; ++lane) {
      threads.emplace_back([&, rank, lane] {
        MeshGroup& group = *groups[static_cast<size_t>(rank)];
        std::vector<Work> works;
        std::vector<std::pair<Block, int>> received;
        for (int operation = 0; operation < 20; ++operation) {
          std::vector<MeshGroup::Send> sends;
          std::vector<MeshGroup::Receive> receives;
          for (int peer = 0; peer < kSize; ++peer) {
            if (peer == rank) continue;
            const int own_mark = (operation * kSize + rank) % 251;
            sends.push_back(To(peer, MakeBlock(size_of(lane, operation, rank, peer), own_mark)));
            const Block block = MakeBlock(size_of(lane, operation, peer, rank));
            received.emplace_back(block, (operation * kSize + peer) % 251);
            receives.push_back(From(peer, block));
          }
          works.push_back(group.Exchange(static_cast<Lane>(lane), std::to_string(operation),
                                         std::move(sends), std::move(receives)));
        }
        for (const Work& work : works) ASSERT_TRUE(work.Wait(Soon()).ok()) << work.Wait(Soon());
        for (const auto& [block, mark] : received) {
          ASSERT_TRUE(std::ranges::all_of(
              *block, [&](std::byte each) { return each == static_cast<std::byte>(mark); }));
        }
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
  int64_t sent = 0, received = 0;
  for (const auto& group : groups) {
    sent += group->bytes_sent();
    received += group->bytes_received();
  }
  EXPECT_EQ(sent, received);
}

TEST(MeshGroup, WhatArrivesEarlyWaitsForItsReceiveAndHoldsTheSenderBack) {
  MeshRanks ranks(2);
  auto groups = ranks.Join(1);
  std::vector<Work> sends;
  for (int i = 0; i < 16; ++i) {
    sends.push_back(groups[0]->Exchange(Lane::kMain, "early", {To(1, MakeBlock(4 << 20, i))}, {}));
  }
  // The other lane is not held back.
  const auto [work_0, block_0] = Swap(*groups[0], Lane::kGradients, "other", 3 << 20);
  const auto [work_1, block_1] = Swap(*groups[1], Lane::kGradients, "other", 3 << 20);
  EXPECT_TRUE(work_0.Wait(Soon()).ok());
  EXPECT_TRUE(work_1.Wait(Soon()).ok());
  EXPECT_FALSE(sends.back().Done()) << "64 MiB are more than may lie about";
  for (int i = 0; i < 16; ++i) {
    const Block block = MakeBlock(4 << 20);
    ASSERT_TRUE(groups[1]->Exchange(Lane::kMain, "late", {}, {From(0, block)}).Wait(Soon()).ok());
    EXPECT_EQ(block->back(), static_cast<std::byte>(i));
    EXPECT_TRUE(sends[static_cast<size_t>(i)].Wait(Soon()).ok());
  }
}

TEST(MeshGroup, RanksThatDisagreeFailInsteadOfHanging) {
  MeshRanks ranks(2);
  auto groups = ranks.Join(1);
  const Work send = groups[0]->Exchange(Lane::kMain, "a", {To(1, MakeBlock(10))}, {});
  const Block rest = MakeBlock(1);
  const Work rest_work = groups[0]->Exchange(Lane::kMain, "rest", {}, {From(1, rest)});
  EXPECT_THAT(
      groups[1]->Exchange(Lane::kMain, "b", {}, {From(0, MakeBlock(20))}).Wait(Soon()),
      FailsWith(absl::StatusCode::kInternal,
                "b: peer rank 0 at " + Address(ranks, 0) +
                    ": sends 10 bytes for operation 0 of this lane where 20 are expected for b"));
  EXPECT_THAT(rest_work.Wait(Soon()), FailsWith(kUnavailable, "rest: peer rank 1 at "));
  EXPECT_FALSE(groups[0]->status().ok());
}

TEST(MeshGroup, AnAbortEndsAllWaitsAndWritesNoMoreMemory) {
  MeshRanks ranks(2);
  auto groups = ranks.Join(1);
  // Rank 0 floods rank 1, which gives up in the middle.
  std::vector<Block> blocks;
  std::vector<Work> receives;
  for (int i = 0; i < 8; ++i) {
    blocks.push_back(MakeBlock(8 << 20));
    groups[0]->Exchange(Lane::kMain, "flood", {To(1, MakeBlock(8 << 20, 1))}, {});
    receives.push_back(groups[1]->Exchange(Lane::kMain, "flood", {}, {From(0, blocks.back())}));
  }
  const Work never_taken =
      groups[0]->Exchange(Lane::kMain, "never taken", {To(1, MakeBlock(64 << 20))}, {});
  const Work never_sent =
      groups[1]->Exchange(Lane::kGradients, "never sent", {}, {From(0, MakeBlock(1))});
  EXPECT_TRUE(receives[1].Wait(Soon()).ok());
  groups[1]->Abort(absl::AbortedError("generation 2"));
  std::vector<std::vector<std::byte>> copies;
  for (const Block& block : blocks) copies.push_back(*block);
  EXPECT_THAT(groups[1]->status(), FailsWith(kAborted, "generation 2"));
  EXPECT_THAT(never_sent.Wait(Soon()), FailsWith(kAborted, "never sent: generation 2"));
  EXPECT_THAT(never_taken.Wait(Soon()),
              FailsWith(kUnavailable, "never taken: peer rank 1 at " + Address(ranks, 1)));
  for (size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(copies[i], *blocks[i]);
  EXPECT_THAT(groups[1]->Exchange(Lane::kGradients, "later", {}, {}).Wait(Soon()),
              FailsWith(kAborted, "later: generation 2"));
}

TEST(MeshGroup, ARankThatLeavesInGoodOrderFailsOnlyWhatInvolvesIt) {
  MeshRanks ranks(3);
  auto groups = ranks.Join(1);
  // Rank 2's last words arrive although they are read after it has gone.
  const Work last = groups[2]->Exchange(
      Lane::kMain, "last", {To(0, MakeBlock(3 << 20, 7)), To(1, MakeBlock(3 << 20, 7))}, {});
  std::thread leaving([&] {
    EXPECT_TRUE(last.Wait(Soon()).ok());
    groups[2] = nullptr;
  });
  leaving.join();
  for (int rank = 0; rank < 2; ++rank) {
    const Block block = MakeBlock(3 << 20);
    ASSERT_TRUE(groups[static_cast<size_t>(rank)]
                    ->Exchange(Lane::kMain, "last", {}, {From(2, block)})
                    .Wait(Soon())
                    .ok());
    EXPECT_EQ(block->back(), std::byte{7});
  }
  const Work work = groups[0]->Exchange(Lane::kMain, "more", {To(1, MakeBlock(5, 3))}, {});
  EXPECT_TRUE(groups[1]->Exchange(Lane::kMain, "more", {}, {From(0, MakeBlock(5))}).Wait().ok());
  EXPECT_TRUE(work.Wait(Soon()).ok());
  EXPECT_TRUE(groups[0]->status().ok());
  EXPECT_THAT(
      groups[0]->Exchange(Lane::kMain, "gone", {}, {From(2, MakeBlock(1))}).Wait(Soon()),
      FailsWith(kUnavailable, "gone: peer rank 2 at " + Address(ranks, 2) + ": it has left"));
  EXPECT_FALSE(groups[0]->status().ok());
}

TEST(MeshServer, APeerThatDiesIsNoticedAtOnce) {
  MeshRanks ranks(2);
  auto groups = ranks.Join(1);
  const Work work =
      groups[0]->Exchange(Lane::kGradients, "gather", {To(1, MakeBlock(64 << 20))}, {});
  const Block first = MakeBlock(64 << 20);
  groups[1]->Exchange(Lane::kGradients, "gather", {}, {From(0, first)});
  ranks.Kill(1);
  EXPECT_THAT(work.Wait(Soon()), FailsWith(kUnavailable, "gather: peer rank 1 at "));
  EXPECT_THAT(groups[1]->status(),
              FailsWith(absl::StatusCode::kCancelled, "this process has left the mesh"));
}

TEST(MeshServer, AJoinWaitsForWhoIsNotThereYet) {
  MeshRanks ranks(2);
  auto first = ranks.Join(1);
  // The dialer is ahead of the other, which is still in generation 1.
  auto ahead =
      std::async(std::launch::async, [&] { return ranks.server(1).Join(ranks.Membership(1, 2)); });
  // It has left generation 1, so it is on its way.
  const Work lost = first[0]->Exchange(Lane::kMain, "x", {}, {From(1, MakeBlock(1))});
  EXPECT_THAT(lost.Wait(Soon()), FailsWith(kUnavailable, "x: peer rank 1"));
  EXPECT_THAT(first[1]->status(), FailsWith(kAborted, "left for generation 2"));
  auto behind = ranks.server(0).Join(ranks.Membership(0, 2));
  ASSERT_TRUE(behind.ok()) << behind.status();
  auto group = ahead.get();
  ASSERT_TRUE(group.ok()) << group.status();
  const auto [work_0, block_0] = Swap(**behind, Lane::kMain, "x", 100);
  const auto [work_1, block_1] = Swap(**group, Lane::kMain, "x", 100);
  EXPECT_TRUE(work_0.Wait(Soon()).ok());
  EXPECT_TRUE(work_1.Wait(Soon()).ok());
}

TEST(MeshServer, LeavingEndsAJoinFromAnotherThread) {
  MeshRanks ranks(3);
  // Rank 1 dials 0 and waits for 2; rank 0 waits for both.
  for (const int rank : {0, 1}) {
    auto joined = std::async(std::launch::async, [&] {
      return ranks.server(rank).Join(ranks.Membership(rank, 5)).status();
    });
    ranks.server(rank).Leave({1, 5}, absl::AbortedError("prepare 6"));
    EXPECT_THAT(joined.get(), FailsWith(kAborted, "prepare 6"))
        << "whether Leave() came before or after the beginning of Join()";
  }
}

TEST(MeshServer, DialsAgainUntilTheOtherCanBeReached) {
  constexpr int kCuts = 4;
  MeshRanks ranks(2);
  TcpProxy proxy(ranks.address(0));
  ranks.address(0) = proxy.address();
  proxy.CutNext(kCuts);
  auto joined =
      std::async(std::launch::async, [&] { return ranks.server(1).Join(ranks.Membership(1, 1)); });
  proxy.Open();
  while (proxy.num_connections() < kCuts) std::this_thread::yield();
  auto other = ranks.server(0).Join(ranks.Membership(0, 1));
  EXPECT_TRUE(other.ok()) << other.status();
  const absl::Status status = joined.get().status();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GE(proxy.num_connections(), kCuts + kNumLanes);
}

TEST(MeshServer, RefusesAWrongToken) {
  MeshRanks ranks(1);
  for (const std::string token : {"secreT", "", "secret "}) {
    const auto stranger =
        *MeshServer::Start({.run_id = "run", .token = token, .incarnation = 1001});
    MeshMembership membership = ranks.Membership(0, 1);
    membership.members.push_back({stranger->address(), 1001});
    membership.rank = 1;
    EXPECT_THAT(stranger->Join(membership).status(),
                FailsWith(absl::StatusCode::kUnauthenticated,
                          "peer rank 0 at " + Address(ranks, 0) + ": this is not the run's token"));
  }
}

TEST(MeshServer, RefusesWhoIsStaleOrUnknownWithBothSidesValues) {
  MeshRanks ranks(2);
  struct Case {
    std::string run_id;
    MeshEpoch epoch;
    int64_t incarnation;
    int64_t peer_incarnation;
    std::string message;
  };
  const Case cases[] = {
      {"other", {1, 7}, 1001, 1000, "it belongs to run other, this process to run run"},
      {"run",
       {1, 6},
       1001,
       1000,
       "generation 6 of term 1 refused: this process is in generation 7"},
      {"run", {0, 7}, 1001, 1000, "of term 0 refused: this process is in generation 7 of term 1"},
      {"run", {1, 7}, 1009, 1000, "the member with that rank is incarnation 1001"},
      {"run", {1, 7}, 1001, 999, "it is meant for incarnation 999, this process is 1000"},
  };
  auto waiting = std::async(std::launch::async,
                            [&] { return ranks.server(0).Join(ranks.Membership(0, 7)).status(); });
  for (const Case& each : cases) {
    const auto server = *MeshServer::Start(
        {.run_id = each.run_id, .token = "secret", .incarnation = each.incarnation});
    MeshMembership membership{
        each.epoch,
        1,
        {{Address(ranks, 0), each.peer_incarnation}, {server->address(), each.incarnation}}};
    EXPECT_THAT(server->Join(membership).status(), FailsWith(kFailedPrecondition, each.message));
  }
  ranks.server(0).Leave({1, 7}, absl::AbortedError("enough"));
  EXPECT_THAT(waiting.get(), FailsWith(kAborted, "enough"));
  EXPECT_THAT(ranks.server(1).Join(ranks.Membership(1, 7)).status(),
              FailsWith(kFailedPrecondition, "this process has left generation 7 of term 1"));
}

TEST(MeshServer, RefusesAMembershipWithoutThisProcess) {
  MeshRanks ranks(2);
  MeshMembership membership = ranks.Membership(1, 1);
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ranks.server(0).Join(membership).status(),
              FailsWith(kInvalid, "rank 1 is incarnation 1001, this process is 1000"));
  membership.rank = 2;
  EXPECT_THAT(ranks.server(0).Join(membership).status(),
              FailsWith(kInvalid, "rank 2 is none of 2 members"));
}

TEST(MeshServer, EntersNoGenerationTwice) {
  MeshRanks ranks(1);
  auto groups = ranks.Join(3);
  EXPECT_THAT(ranks.server(0).Join(ranks.Membership(0, 3)).status(),
              FailsWith(kFailedPrecondition, "this process is in generation 3 of term 1"));
  EXPECT_TRUE(groups[0]->status().ok());
  EXPECT_TRUE(ranks.server(0).Join(ranks.Membership(0, 1, 2)).ok()) << "a later term goes first";
  EXPECT_FALSE(groups[0]->status().ok());
}

TEST(MeshServer, SaysWhereItCannotListen) {
  EXPECT_THAT(MeshServer::Start({.host = "192.0.2.1"}).status(),
              FailsWith(kUnavailable, "cannot listen on 192.0.2.1"));
}

TEST(MeshServer, AdvertisesAnotherHostThanItListensOn) {
  const auto server = *MeshServer::Start({.host = "0.0.0.0", .advertised_host = "node7"});
  EXPECT_THAT(server->address(), ::testing::StartsWith("node7:"));
}

TEST(MeshServer, ASlowNetworkOnlyTakesLonger) {
  MeshRanks ranks(2);
  TcpProxy proxy(ranks.address(0));
  proxy.Open();
  proxy.Delay(std::chrono::milliseconds(5));
  ranks.address(0) = proxy.address();
  auto groups = ranks.Join(1);
  const auto [work_0, block_0] = Swap(*groups[0], Lane::kMain, "slow", 3 << 20);
  const auto [work_1, block_1] = Swap(*groups[1], Lane::kMain, "slow", 3 << 20);
  EXPECT_TRUE(work_0.Wait(Soon()).ok());
  EXPECT_TRUE(work_1.Wait(Soon()).ok());
  EXPECT_EQ(block_0->back(), std::byte{11});
  EXPECT_GE(proxy.num_connections(), kNumLanes) << "a connection for each lane";
}

TEST(MeshServer, ACutConnectionIsNoticedAtOnceByBothSides) {
  MeshRanks ranks(2);
  TcpProxy proxy(ranks.address(0));
  proxy.Open();
  ranks.address(0) = proxy.address();
  auto groups = ranks.Join(1);
  const Work work_0 = groups[0]->Exchange(Lane::kMain, "cut", {}, {From(1, MakeBlock(1))});
  const Work work_1 = groups[1]->Exchange(Lane::kMain, "cut", {}, {From(0, MakeBlock(1))});
  proxy.Cut();
  EXPECT_THAT(work_0.Wait(Soon()), FailsWith(kUnavailable, "cut: peer rank 1 at "));
  EXPECT_THAT(work_1.Wait(Soon()), FailsWith(kUnavailable, "cut: peer rank 0 at "));
}

TEST(MeshServer, ASilentNetworkIsBorneForTheSilenceLimitAndNoLonger) {
  const std::chrono::milliseconds limit(1500);
  MeshRanks ranks(2, {.run_id = "run", .token = "secret", .silence_limit = limit});
  TcpProxy proxy(ranks.address(0));
  proxy.Open();
  ranks.address(0) = proxy.address();
  auto groups = ranks.Join(1);
  proxy.Silence();
  const auto start = std::chrono::steady_clock::now();
  // More than the network holds, so that a write stops in the middle.
  const Work work_0 = groups[0]->Exchange(Lane::kMain, "silent", {To(1, MakeBlock(64 << 20))}, {});
  const Work work_1 =
      groups[1]->Exchange(Lane::kMain, "silent", {}, {From(0, MakeBlock(64 << 20))});
  EXPECT_THAT(work_0.Wait(Soon()), FailsWith(kUnavailable, "silent: peer rank 1 at "));
  EXPECT_THAT(work_1.Wait(Soon()), FailsWith(kUnavailable, "silent: peer rank 0 at "));
  const auto silence = std::chrono::steady_clock::now() - start;
  EXPECT_GE(silence, limit);
  EXPECT_LE(silence, 4 * limit);
}

int64_t Count(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder),
                       std::filesystem::directory_iterator());
}

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST(MeshServer, ServesHundredsOfGenerationsWithoutGrowing) {
  constexpr int kSize = 3;
  MeshRanks ranks(kSize);
  const auto live = [&](int64_t generation) {
    auto groups = ranks.Join(generation);
    std::vector<Work> works;
    for (int rank = 0; rank < kSize; ++rank) {
      std::vector<MeshGroup::Send> sends;
      std::vector<MeshGroup::Receive> receives;
      for (int peer = 0; peer < kSize; ++peer) {
        if (peer == rank) continue;
        sends.push_back(To(peer, MakeBlock(100'000)));
        receives.push_back(From(peer, MakeBlock(100'000)));
      }
      works.push_back(groups[static_cast<size_t>(rank)]->Exchange(
          Lane::kMain, "gate", std::move(sends), std::move(receives)));
    }
    // Some end in order, some in the middle of an operation.
    if (generation % 2 == 0) {
      for (const Work& work : works) ASSERT_TRUE(work.Wait(Soon()).ok());
    }
    for (int rank = 0; rank < kSize; ++rank) {
      ranks.server(rank).Leave({1, generation}, absl::AbortedError("next"));
    }
  };
  for (int64_t generation = 1; generation <= 50; ++generation) live(generation);
  const int64_t descriptors = Count("/proc/self/fd");
  const int64_t threads = Count("/proc/self/task");
  const int64_t resident = ResidentBytes();
  for (int64_t generation = 51; generation <= 250; ++generation) live(generation);
  EXPECT_LE(Count("/proc/self/fd"), descriptors + 20) << "connections are still being closed";
  EXPECT_LE(Count("/proc/self/task"), threads + 4);
#ifdef __SANITIZE_ADDRESS__
  (void)resident;  // AddressSanitizer keeps what was freed, and finds leaks by itself
#else
  EXPECT_LE(ResidentBytes(), resident + (16 << 20));
#endif
}

TEST(MeshGroup, APeerAtWhoseAddressNothingAnswersIsNamedAfterTheSilenceLimit) {
  MeshRanks ranks(3, {.run_id = "run", .token = "secret", .silence_limit = milliseconds(1000)});
  const auto join = [&](const MeshMembership& membership) {
    return std::async(std::launch::async, [&ranks, membership] {
      return ranks.server(membership.rank).Join(membership);
    });
  };
  auto first = join(ranks.Membership(0, 1));
  auto second = join(ranks.Membership(1, 1));
  // Only rank 2 looks for rank 0 where nobody listens: port 1 of this machine is reserved.
  ranks.address(0) = "127.0.0.1:1";
  const absl::Status third = ranks.server(2).Join(ranks.Membership(2, 1)).status();
  EXPECT_THAT(third, FailsWith(kUnavailable, "rank 0 at 127.0.0.1:1 cannot be reached"));
  EXPECT_THAT(third, FailsWith(kUnavailable, "--advertise"));
  EXPECT_THAT(UnreachableRanks(third), ElementsAre(0));
  // Rank 1 is connected with everybody, and hears that rank 2 gave up. Rank 0 waits for rank 2.
  const auto group = second.get();
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_THAT((*group)->Exchange(Lane::kMain, "step", {}, {From(2, MakeBlock(1))}).Wait(Soon()),
              FailsWith(kUnavailable, "step: peer rank 2 at "));
  ranks.server(0).Leave({1, 1}, absl::AbortedError("next"));
  EXPECT_THAT(UnreachableRanks(first.get().status()), IsEmpty());
}

TEST(MeshGroup, APeerThatListensButIsNotThereYetIsWaitedFor) {
  MeshRanks ranks(2, {.run_id = "run", .token = "secret", .silence_limit = milliseconds(500)});
  auto second = std::async(std::launch::async,
                           [&] { return ranks.server(1).Join(ranks.Membership(1, 1)).status(); });
  EXPECT_EQ(second.wait_for(milliseconds(1500)), std::future_status::timeout);
  const auto first = ranks.server(0).Join(ranks.Membership(0, 1));
  EXPECT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(second.get().ok());
}

}  // namespace
}  // namespace albef
