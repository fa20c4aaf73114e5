// Speed of the connections between workers on CPUs: processes on this machine, over the loopback.
//
//   build/release/bin/communicator_benchmark --ranks 2 --arena-mb 800
//
// Prints the throughput of one stream in one direction and in both, the time of a small all-gather
// such as the gate pays in every iteration, and the time of a tree reduction without any backward
// beside it.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "comm/grpc_communicator.h"
#include "comm/slices.h"
#include "comm/tree_reduction.h"

namespace albef {
namespace {

constexpr int kMaxRanks = 16;

struct Arguments {
  int ranks = 2;
  int64_t transfer_mb = 64;
  int transfers = 16;
  int gathers = 2000;
  int64_t arena_mb = 800;
  int64_t bucket_mb = 4;
};

// Where the processes tell each other their addresses.
struct Board {
  std::atomic<int> num_ready;
  char addresses[kMaxRanks][64];
};

double Seconds(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "{}\n", status.ToString());
  std::exit(1);
}

std::unique_ptr<Communicator> Connect(MeshServer& server, Board& board, int rank, int size) {
  std::strncpy(board.addresses[rank], server.address().c_str(), sizeof(board.addresses[rank]) - 1);
  ++board.num_ready;
  while (board.num_ready < size) std::this_thread::yield();
  MeshMembership membership{{1, 1}, rank, {}};
  for (int peer = 0; peer < size; ++peer)
    membership.members.push_back({board.addresses[peer], peer});
  auto communicator = GrpcCommunicator::Connect(server, membership);
  Check(communicator.status());
  return *std::move(communicator);
}

void Barrier(Communicator& communicator) {
  const torch::Tensor ranks = torch::empty({communicator.size(), 1});
  const torch::Tensor own = torch::ones({1});
  Check(communicator.AllGather(Lane::kMain, "barrier", own, ranks.unbind(0)).Wait());
}

// Rank 0 to rank 1, or both ways.
void MeasureStream(Communicator& communicator, const Arguments& arguments, bool both) {
  const int rank = communicator.rank();
  const torch::Tensor out = torch::ones({arguments.transfer_mb << 20}, torch::kByte);
  const torch::Tensor in = torch::zeros_like(out);
  Barrier(communicator);
  const auto start = std::chrono::steady_clock::now();
  if (rank < 2) {
    std::vector<Work> works;
    for (int i = 0; i < arguments.transfers; ++i) {
      std::vector<Communicator::Transfer> sends, receives;
      if (rank == 0 || both) sends.push_back({1 - rank, out});
      if (rank == 1 || both) receives.push_back({1 - rank, in});
      works.push_back(communicator.Exchange(Lane::kGradients, "transfer", sends, receives));
    }
    for (const Work& work : works) Check(work.Wait());
  }
  Barrier(communicator);
  const double seconds = Seconds(start);
  const double bytes = static_cast<double>(out.nbytes()) * arguments.transfers;
  if (rank == 0) {
    fmt::print("stream {}: {:.2f} GB/s per direction\n", both ? "both ways" : "one way",
               bytes / seconds / 1e9);
  }
}

void MeasureGather(Communicator& communicator, const Arguments& arguments) {
  std::vector<torch::Tensor> gathered;
  for (int peer = 0; peer < communicator.size(); ++peer) gathered.push_back(torch::zeros({512}));
  const torch::Tensor own = gathered[static_cast<size_t>(communicator.rank())];
  std::vector<double> seconds;
  for (int i = 0; i < arguments.gathers; ++i) {
    const auto start = std::chrono::steady_clock::now();
    Check(communicator.AllGather(Lane::kMain, "gate", own, gathered).Wait());
    seconds.push_back(Seconds(start));
  }
  std::sort(seconds.begin(), seconds.end());
  if (communicator.rank() == 0) {
    fmt::print("all-gather of 2 KiB: median {:.0f} us, 99th percentile {:.0f} us\n",
               1e6 * seconds[seconds.size() / 2], 1e6 * seconds[seconds.size() * 99 / 100]);
  }
}

void MeasureReduction(Communicator& communicator, const Arguments& arguments) {
  const int64_t numel = arguments.arena_mb * 1'000'000 / 4;
  TreeReduction reduction(
      &communicator, DivideRanks(communicator.size(), communicator.size()).value(),
      {.arenas = {torch::ones({numel})}}, {.bucket_bytes = arguments.bucket_mb << 20});
  for (int step = 0; step < 3; ++step) {
    reduction.Leaf().fill_(1);
    Barrier(communicator);
    const auto start = std::chrono::steady_clock::now();
    reduction.AddLeaf();
    Check(reduction.Finish().status());
    const double seconds = Seconds(start);
    if (communicator.rank() == 0 && step > 0) {
      fmt::print("tree reduction of {} MB over {} ranks: {:.2f} s, {:.2f} GB/s of arena\n",
                 arguments.arena_mb, communicator.size(), seconds,
                 static_cast<double>(numel) * 4 / seconds / 1e9);
    }
  }
}

void RunRank(const Arguments& arguments, Board& board, int rank) {
  at::set_num_threads(1);
  auto server = MeshServer::Start({.run_id = "benchmark", .incarnation = rank});
  Check(server.status());
  const auto communicator = Connect(**server, board, rank, arguments.ranks);
  MeasureStream(*communicator, arguments, false);
  MeasureStream(*communicator, arguments, true);
  MeasureGather(*communicator, arguments);
  if (arguments.arena_mb > 0) MeasureReduction(*communicator, arguments);
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Speed of the connections between workers on CPUs");
  app.add_option("--ranks", arguments.ranks)->check(CLI::Range(2, kMaxRanks));
  app.add_option("--transfer-mb", arguments.transfer_mb);
  app.add_option("--transfers", arguments.transfers);
  app.add_option("--gathers", arguments.gathers);
  app.add_option("--arena-mb", arguments.arena_mb, "0: no reduction");
  app.add_option("--bucket-mb", arguments.bucket_mb);
  CLI11_PARSE(app, argc, argv);
  void* const memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Board& board = *new (memory) Board{};
  // Before anything has started a thread.
  std::vector<pid_t> others;
  for (int rank = 1; rank < arguments.ranks; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      RunRank(arguments, board, rank);
      return 0;
    }
    others.push_back(child);
  }
  RunRank(arguments, board, 0);
  for (const pid_t child : others) ::waitpid(child, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
