// Processes that write checkpoints and are killed with SIGKILL: at random moments, and at every
// single write of a file. After each kill the newest checkpoint must be whole, consistent, and no
// older than the last one that the process had announced as committed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
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
// further step with retention, and announces on the pipe each step that it begins to write (-step)
// and has committed (step).
[[noreturn]] void WriteCheckpointsUntilKilled(const fs::path& root, int announce_fd,
                                              WriteFunction write) {
  const auto store = OpenStore(root, std::move(write));
  if (!store->CleanUp().ok()) ::_exit(10);
  auto newest = store->LoadNewestValid();
  if (!newest.ok() || !newest->quarantined.empty()) ::_exit(11);
  int64_t step = newest->checkpoint ? newest->checkpoint->manifest().info.counters.iteration : 0;
  const auto announce = [&](int64_t message) {
    if (::write(announce_fd, &message, sizeof(message)) != sizeof(message)) ::_exit(14);
  };
  while (true) {
    ++step;
    const TestState state = StateOfStep(step);
    announce(-step);
    if (!store->Write(state.tensors, InfoAt(step), {.num_shards = 2}).ok()) ::_exit(12);
    if (!store->ApplyRetention().ok()) ::_exit(13);
    announce(step);
  }
}

// Starts the writer, lets `kill` end it (or it ends itself), and returns the last step that it
// announced as committed, 0 for none. `kill` gets the announcements one by one, and says whether it
// wants the next.
int64_t RunAndKill(const fs::path& root, const WriteFunction& write,
                   const std::function<bool(pid_t, int64_t)>& kill) {
  Pipe pipe;
  const pid_t child = ::fork();
  if (child == 0) WriteCheckpointsUntilKilled(root, pipe.writer.get(), write);
  EXPECT_GT(child, 0);
  EXPECT_TRUE(pipe.writer.Close("pipe").ok());
  int64_t committed = 0;
  int64_t message = 0;
  bool is_waiting = true;
  while (::read(pipe.reader.get(), &message, sizeof(message)) == sizeof(message)) {
    committed = std::max(committed, message);
    is_waiting = is_waiting && kill(child, message);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
      << "the writer ended by itself with code " << WEXITSTATUS(status);
  return committed;
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
  int64_t last_committed = 0;
  int num_partial = 0;
  for (int i = 0; i < kNumKills; ++i) {
    SCOPED_TRACE(fmt::format("kill {}", i));
    // Counted from the beginning of a write after a commit, so that slow machines get that far and
    // the moments fall upon the write, its end and what comes after.
    int64_t last_message = 0;
    const int64_t committed =
        RunAndKill(directory.path(), WriteAll, [&](pid_t child, int64_t message) {
          const bool is_second_write = message < 0 && last_message > 0;
          last_message = message;
          if (!is_second_write) return true;
          const timespec moment{.tv_sec = 0,
                                .tv_nsec = static_cast<long>(random.Below(20'000'000))};
          ::nanosleep(&moment, nullptr);
          ::kill(child, SIGKILL);
          return false;
        });
    EXPECT_GT(committed, last_committed) << "it went on from an older checkpoint";
    last_committed = committed;
    for (const std::string& name : List(directory.path()))
      num_partial += name.ends_with(".partial");
    ExpectNewestIsWhole(directory.path(), last_committed);
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
    const auto let_it_die = [](pid_t, int64_t) { return false; };
    const int64_t reached = std::max(newest, RunAndKill(directory.path(), write, let_it_die));
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
