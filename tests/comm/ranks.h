// Ranks as threads, and what every communicator must be able to do. Shared by the tests of all
// implementations.
#ifndef ALBEF_TESTS_COMM_RANKS_H_
#define ALBEF_TESTS_COMM_RANKS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"

namespace albef {

// Runs `body(rank)` on one thread per rank and joins them.
inline void RunRanks(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

// Call from the threads of all ranks at the same time.
inline void ExpectAllGathers(Communicator& communicator, Lane lane = Lane::kMain) {
  const auto numbers = torch::TensorOptions(communicator.device()).dtype(torch::kLong);
  const torch::Tensor ranks = torch::full({communicator.size(), 1}, -1, numbers);
  const torch::Tensor own = torch::full({1}, communicator.rank(), numbers);
  const absl::Status gathered = communicator.AllGather(lane, "ranks", own, ranks.unbind(0)).Wait();
  ASSERT_TRUE(gathered.ok()) << gathered;
  ASSERT_TRUE(ranks.flatten().equal(torch::arange(communicator.size(), numbers))) << ranks;
}

// Every collective once, on each of the connected communicators. Call from their threads at the
// same time.
inline void ExpectWorkingCollectives(Communicator& communicator, Lane lane) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  // Rank r sends p the numbers 100 r + p, once per rank below r + 2, and one on top for ranks
  // above.
  std::vector<Communicator::Transfer> sends, receives;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    sends.push_back({peer, torch::full({rank + 2}, 100 * rank + peer, torch::kLong)});
    receives.push_back({peer, torch::empty({peer + 2}, torch::kLong)});
    if (rank < peer) sends.push_back({peer, torch::full({1}, rank, torch::kInt)});
    if (peer < rank) receives.push_back({peer, torch::empty({1}, torch::kInt)});
    sends.push_back({peer, torch::empty({0})});
    receives.push_back({peer, torch::empty({0})});
  }
  ASSERT_TRUE(communicator.Exchange(lane, "exchange", sends, receives).Wait().ok());
  for (const auto& [peer, tensor] : receives) {
    if (tensor.numel() == 0) continue;
    const int64_t expected = tensor.scalar_type() == torch::kInt ? peer : 100 * peer + rank;
    ASSERT_TRUE(tensor.eq(expected).all().item<bool>()) << tensor;
  }

  // Two operations at once.
  std::vector<torch::Tensor> gathered;
  for (int peer = 0; peer < size; ++peer) gathered.push_back(torch::zeros({peer, 3}));
  const Work gather = communicator.AllGather(lane, "all-gather",
                                             torch::full({rank, 3}, rank, torch::kFloat), gathered);
  ExpectAllGathers(communicator, lane);
  ASSERT_TRUE(gather.Wait().ok());
  ASSERT_TRUE(gather.Done());
  for (int peer = 0; peer < size; ++peer) {
    ASSERT_TRUE(gathered[static_cast<size_t>(peer)].eq(peer).all().item<bool>());
  }
}

MATCHER_P2(FailsWith, code, text, "") {
  const absl::Status& status = arg;
  *result_listener << status;
  return status.code() == code && status.message().find(text) != absl::string_view::npos;
}

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_RANKS_H_
