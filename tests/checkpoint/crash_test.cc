// Processes that write checkpoints and are killed with SIGKILL: at random moments, and at every
// single write of a file. After each kill the newest checkpoint must be whole, consistent, and no
// older than the last one that the process had announced as committed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>

#include "tests/checkpoint/test_state.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr int kNumKills = 60;

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) std::abort();
    reader = FileDescriptor(fds[0]);
    writer = FileDescriptor(fds[1]);
  }
  FileDescriptor reader;
  FileDescriptor writer;
};

TestState StateOfStep(int64_t step) {
  TestState state = SmallState(static_cast<uint64_t>(step));
  state.Add("momentum", DType::kF32, {60'000}, static_cast<uint64_t>(step));
  return state;
}

// What the killed process does: goes on from the newest checkpoint, as a trainer does, writes every
// further step with retention, and announces each on the pipe.
[[noreturn]] void WriteCheckpointsUntilKilled(const fs::path& root, int announce_fd,
                                              WriteFunction write) {
  const auto store = OpenStore(root, std::move(write));
  if (!store->CleanUp().ok()) ::_exit(10);
  auto newest = store->LoadNewestValid();
  if (!newest.ok() || !newest->quarantined.empty()) ::_exit(11);
  int64_t step = newest->checkpoint ? newest->checkpoint->manifest().info.counters.iteration : 0;
  while (true) {
    ++step;
    const TestState state = StateOfStep(step);
    if (!store->Write(state.tensors, InfoAt(step), {.num_shards = 2}).ok()) ::_exit(12);
    if (!store->ApplyRetention().ok()) ::_exit(13);
    if (::write(announce_fd, &step, sizeof(step)) != sizeof(step)) ::_exit(14);
  }
}

struct Killed {
  int64_t last_announced = 0;
  bool by_sigkill = false;
};

// Starts the writer, lets `kill` end it (or it ends itself), and collects what it announced.
Killed RunAndKill(const fs::path& root, const WriteFunction& write,
                  const std::function<void(pid_t, int)>& kill) {
  Pipe pipe;
  const pid_t child = ::fork();
  if (child == 0) WriteCheckpointsUntilKilled(root, pipe.writer.get(), write);
  EXPECT_GT(child, 0);
  EXPECT_TRUE(pipe.writer.Close("pipe").ok());
  kill(child, pipe.reader.get());
  Killed killed;
  int64_t step = 0;
  while (::read(pipe.reader.get(), &step, sizeof(step)) == sizeof(step)) {
    killed.last_announced = step;
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  killed.by_sigkill = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  EXPECT_TRUE(killed.by_sigkill) << "the writer failed with code " << WEXITSTATUS(status);
  return killed;
}

void ExpectNewestIsWhole(const fs::path& root, int64_t at_least) {
  const auto result = OpenStore(root)->LoadNewestValid();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->quarantined, ::testing::IsEmpty());
  if (at_least == 0 && !result->checkpoint.has_value()) return;
  ASSERT_TRUE(result->checkpoint.has_value());
  const int64_t step = result->checkpoint->manifest().info.counters.iteration;
  EXPECT_GE(step, at_least);
  EXPECT_EQ(Difference(*result->checkpoint, StateOfStep(step)), "");
}

TEST(CheckpointCrash, AWriterKilledAtRandomMomentsNeverLosesACommittedCheckpoint) {
  TemporaryDirectory directory;
  RandomStream random(std::random_device{}(), RandomPurpose::kSynthetic, 0);
  int64_t last_announced = 0;
  int num_partial = 0;
  for (int i = 0; i < kNumKills; ++i) {
    SCOPED_TRACE(fmt::format("kill {}", i));
    const Killed killed = RunAndKill(directory.path(), WriteAll, [&](pid_t child, int announced) {
      // The moment is counted from its first commit, so that slow machines get there too.
      pollfd ready{.fd = announced, .events = POLLIN, .revents = 0};
      EXPECT_EQ(::poll(&ready, 1, 60'000), 1);
      const timespec moment{.tv_sec = 0, .tv_nsec = static_cast<long>(random.Below(20'000'000))};
      ::nanosleep(&moment, nullptr);
      ::kill(child, SIGKILL);
    });
    EXPECT_GT(killed.last_announced, last_announced) << "it went on from an older checkpoint";
    last_announced = killed.last_announced;
    for (const std::string& name : List(directory.path()))
      num_partial += name.ends_with(".partial");
    ExpectNewestIsWhole(directory.path(), last_announced);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
  EXPECT_GT(num_partial, 0) << "no kill ever hit a write";
}

TEST(CheckpointCrash, AWriterKilledAtAnyWriteOfAFileNeverLosesACommittedCheckpoint) {
  TemporaryDirectory directory;
  constexpr int kMaxWrites = 1000;
  int64_t newest = 0;
  int num_writes = 0;
  // The n-th process dies in the middle of its n-th write, until one has got through three steps.
  for (; num_writes < kMaxWrites; ++num_writes) {
    SCOPED_TRACE(fmt::format("killed at write {}", num_writes));
    int num_left = num_writes;
    const auto write = [&](int fd, std::span<const std::byte> bytes, const fs::path& path) {
      if (num_left-- == 0) {
        (void)WriteAll(fd, bytes.first(bytes.size() / 2), path);
        ::raise(SIGKILL);
      }
      return WriteAll(fd, bytes, path);
    };
    const Killed killed = RunAndKill(directory.path(), write, [](pid_t, int) {});
    const int64_t reached = std::max(newest, killed.last_announced);
    ExpectNewestIsWhole(directory.path(), reached);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
    if (reached >= newest + 3) break;
    newest = reached;
  }
  EXPECT_GT(num_writes, 20);
  EXPECT_LT(num_writes, kMaxWrites);
}

}  // namespace
}  // namespace albef
