// What the ledger acknowledged is never lost, whatever happens to the process that wrote it.
#include "coordinator/ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <future>
#include <set>
#include <thread>

#include "common/fault_point.h"
#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::unique_ptr<Ledger> OpenLedger(const fs::path& run_dir, int64_t term) {
  auto claimed = Term::Claim(run_dir, term);
  EXPECT_TRUE(claimed.ok()) << claimed.status();
  auto ledger = Ledger::Open({.run_dir = run_dir, .term = *claimed});
  EXPECT_TRUE(ledger.ok()) << ledger.status();
  return *std::move(ledger);
}

GenerationRecord Record(int64_t generation, int num_members = 3) {
  GenerationRecord record{.generation = generation, .cause = "cause", .members = {}};
  for (int i = 0; i < num_members; ++i) {
    record.members.push_back({.worker_id = fmt::format("worker-{}", i), .incarnation = 1000 + i});
  }
  return record;
}

// A child process that runs `body` with ALBEF_FAULT set; what it writes to its pipe is read by
// Acknowledged. `body` gets the writing end.
class Child {
 public:
  Child(const std::string& fault, const fs::path& fault_dir, const std::function<int(int)>& body) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      ::setenv("ALBEF_FAULT", fault.c_str(), 1);
      ::setenv("ALBEF_FAULT_DIR", fault_dir.c_str(), 1);
      spdlog::set_level(spdlog::level::off);
      if (!SetFaultProcess("coordinator").ok()) ::_exit(99);
      ::_exit(body(ends[1]));
    }
    ::close(ends[1]);
    read_end_ = FileDescriptor(ends[0]);
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  pid_t pid() const { return pid_; }

  // The newest number written; waits for the end of the child's writing, or until `enough`.
  int64_t Acknowledged(int64_t enough = std::numeric_limits<int64_t>::max()) {
    int64_t number = 0;
    while (acknowledged_<enough&& ::read(read_end_.get(), &number, sizeof(number))> 0) {
      acknowledged_ = number;
    }
    return acknowledged_;
  }

  int Wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

 private:
  pid_t pid_ = -1;
  FileDescriptor read_end_;
  int64_t acknowledged_ = 0;
};

// Generations first … first+count-1, each told on the pipe once it is acknowledged.
int WriteGenerations(const fs::path& run_dir, int64_t term, int64_t first, int count, int pipe) {
  const std::unique_ptr<Ledger> ledger = OpenLedger(run_dir, term);
  for (int64_t generation = first; generation < first + count; ++generation) {
    if (!ledger->WriteAndWait(ledger_entry::Generation{Record(generation)}).ok()) return 3;
    if (::write(pipe, &generation, sizeof(generation)) < 0) return 4;
  }
  return 0;
}

TEST(Term, IsClaimedByExactlyOneOfThoseWhoTry) {
  const TemporaryDirectory run_dir;
  EXPECT_EQ(*HighestTerm(run_dir.path()), 0);
  for (int64_t term = 1; term <= 5; ++term) {
    std::atomic<int> num_claimed{0};
    std::vector<std::thread> processes;
    for (int i = 0; i < 8; ++i) {
      processes.emplace_back([&] {
        const auto claimed = Term::Claim(run_dir.path(), term);
        if (claimed.ok()) ++num_claimed;
        EXPECT_TRUE(claimed.ok() || absl::IsAlreadyExists(claimed.status()));
      });
    }
    for (std::thread& process : processes) process.join();
    EXPECT_EQ(num_claimed, 1);
    EXPECT_EQ(*HighestTerm(run_dir.path()), term);
  }
}

TEST(Term, IsOverOnceThereIsAHigherOne) {
  const TemporaryDirectory run_dir;
  const auto first = Term::Claim(run_dir.path(), 1);
  EXPECT_TRUE(first->CheckCurrent().ok());
  ASSERT_TRUE(Term::Claim(run_dir.path(), 2).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(first->CheckCurrent()));
  EXPECT_TRUE(absl::IsAlreadyExists(Term::Claim(run_dir.path(), 1).status()));
  fs::remove(run_dir.path() / "coordinator" / "term-1");
  EXPECT_TRUE(absl::IsAlreadyExists(Term::Claim(run_dir.path(), 1).status()));
}

TEST(Ledger, TheNextTermFindsWhatWasWritten) {
  const TemporaryDirectory run_dir;
  std::string run_id;
  {
    const auto ledger = OpenLedger(run_dir.path(), 1);
    run_id = ledger->recovered().run_id;
    EXPECT_FALSE(ledger->recovered().has_attempt);
    ASSERT_TRUE(ledger->WriteAndWait(ledger_entry::NewAttempt{}).ok());
    ASSERT_TRUE(
        ledger
            ->WriteAndWait(ledger_entry::Configured{.run = {.virtual_ranks = 4,
                                                            .target_step = 50,
                                                            .action = v1::START_ACTION_IMPORT,
                                                            .import_path = "a'b.pth"},
                                                    .device = "cpu"})
            .ok());
    ASSERT_TRUE(ledger->WriteAndWait(ledger_entry::Generation{Record(7)}).ok());
    ASSERT_TRUE(
        ledger->WriteAndWait(ledger_entry::Command{.command = RunCommand::kPause, .argument = "x"})
            .ok());
  }
  {
    const auto ledger = OpenLedger(run_dir.path(), 2);
    const LedgerContents& contents = ledger->recovered();
    EXPECT_EQ(contents.run_id, run_id);
    EXPECT_TRUE(contents.has_attempt);
    ASSERT_TRUE(contents.configured.has_value());
    EXPECT_EQ(contents.configured->virtual_ranks, 4);
    EXPECT_EQ(contents.configured->target_step, 50);
    EXPECT_EQ(contents.configured->action, v1::START_ACTION_IMPORT);
    EXPECT_EQ(contents.configured->import_path, "a'b.pth");
    EXPECT_EQ(contents.device, "cpu");
    EXPECT_EQ(contents.generation.generation, 7);
    EXPECT_EQ(contents.generation.members, Record(7).members);
    ASSERT_EQ(contents.commands.size(), 1u);
    EXPECT_EQ(contents.commands[0].command, RunCommand::kPause);
    EXPECT_FALSE(contents.outcome.has_value());
    ASSERT_TRUE(ledger
                    ->WriteAndWait(ledger_entry::Ended{
                        {.state = "STOPPED", .reason = "r", .exit_code = 0, .step = 9}})
                    .ok());
  }
  {
    const auto ledger = OpenLedger(run_dir.path(), 3);
    EXPECT_EQ(ledger->recovered().outcome->state, "STOPPED");
    EXPECT_EQ(ledger->recovered().outcome->step, 9);
    ASSERT_TRUE(ledger->WriteAndWait(ledger_entry::NewAttempt{}).ok());
  }
  const auto ledger = OpenLedger(run_dir.path(), 4);
  EXPECT_FALSE(ledger->recovered().outcome.has_value());
  EXPECT_FALSE(ledger->recovered().configured.has_value());
  EXPECT_TRUE(ledger->recovered().commands.empty());
  EXPECT_EQ(ledger->recovered().generation.generation, 7) << "generations go on over attempts";
  int64_t num_ledgers = 0;
  for (const auto& entry : fs::directory_iterator(run_dir.path() / "coordinator")) {
    num_ledgers += entry.path().extension() == ".sqlite" ? 1 : 0;
  }
  EXPECT_EQ(num_ledgers, 1);
}

TEST(Ledger, NothingAcknowledgedIsLostWhereverTheProcessIsKilled) {
  const TemporaryDirectory run_dir, fault_dir;
  constexpr int kWrites = 6;
  int64_t term = 0, generation = 0;
  for (const char* phase : {"ledger", "ledger_committed"}) {
    for (int at = 1; at <= kWrites; ++at) {
      ++term;
      const fs::path marks = fault_dir.path() / std::to_string(term);
      fs::create_directory(marks);
      Child child(fmt::format("coordinator/{}@{}:kill", phase, at), marks, [&](int pipe) {
        return WriteGenerations(run_dir.path(), term, generation + 1, kWrites, pipe);
      });
      const int64_t acknowledged = std::max(child.Acknowledged(), generation);
      const int status = child.Wait();
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
      EXPECT_EQ(acknowledged, generation + at - 1);
      ++term;
      const auto ledger = OpenLedger(run_dir.path(), term);
      const GenerationRecord& found = ledger->recovered().generation;
      const bool is_written = std::string(phase) == "ledger_committed";
      EXPECT_EQ(found.generation, acknowledged + (is_written ? 1 : 0)) << phase << " " << at;
      EXPECT_EQ(found.members, Record(1, found.generation > 0 ? 3 : 0).members);
      generation = found.generation;
    }
  }
}

TEST(Ledger, AStoppedWriterDoesNotAcknowledgeWhenItsTermIsOver) {
  const TemporaryDirectory run_dir, fault_dir;
  for (const std::string phase : {"ledger", "ledger_committed"}) {
    const fs::path dir = run_dir.path() / phase, marks = fault_dir.path() / phase;
    fs::create_directory(marks);
    Child child(fmt::format("coordinator/{}@3:stop", phase), marks,
                [&](int pipe) { return WriteGenerations(dir, 1, 1, 5, pipe); });
    EXPECT_EQ(child.Acknowledged(/*enough=*/2), 2);
    int status = 0;
    ASSERT_EQ(::waitpid(child.pid(), &status, WUNTRACED), child.pid());
    ASSERT_TRUE(WIFSTOPPED(status));
    const auto ledger = OpenLedger(dir, 2);
    const int64_t found = ledger->recovered().generation.generation;
    EXPECT_EQ(found, phase == "ledger" ? 2 : 3);
    ::kill(child.pid(), SIGCONT);
    EXPECT_EQ(child.Acknowledged(), 2) << "it was acknowledged by a term that is over";
    status = child.Wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status;
    EXPECT_TRUE(ledger->WriteAndWait(ledger_entry::Generation{Record(9)}).ok());
  }
}

TEST(Ledger, AWriterWhoseTermIsOverIsRefused) {
  const TemporaryDirectory run_dir;
  const auto old = OpenLedger(run_dir.path(), 1);
  const auto ledger = OpenLedger(run_dir.path(), 2);
  const absl::Status status = old->WriteAndWait(ledger_entry::Generation{Record(1)});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("term 1 is over"));
}

TEST(Ledger, ADamagedOneIsSetAsideAndANewOneBegun) {
  spdlog::set_level(spdlog::level::off);
  const TemporaryDirectory run_dir;
  OpenLedger(run_dir.path(), 1).reset();
  const fs::path path = run_dir.path() / "coordinator" / "ledger-1.sqlite";
  ASSERT_TRUE(WriteFileAtomic(path, "this is no database").ok());
  const auto ledger = OpenLedger(run_dir.path(), 2);
  EXPECT_FALSE(ledger->recovered().has_attempt);
  EXPECT_TRUE(fs::exists(run_dir.path() / "coordinator" / "ledger-2.sqlite.damaged"));
}

// Whatever `fill` makes impossible, 300 generations of 64 members are written after it. Returns the
// child's exit code.
int WriteWithoutRoom(const fs::path& run_dir, const std::function<void()>& fill) {
  const auto ledger = OpenLedger(run_dir, 1);
  if (!ledger->WriteAndWait(ledger_entry::NewAttempt{}).ok()) return 2;
  fill();
  for (int generation = 1; generation <= 300; ++generation) {
    std::promise<absl::Status> done;
    ledger->Write(ledger_entry::Generation{Record(generation, 64)},
                  [&](absl::Status status) { done.set_value(std::move(status)); });
    auto written = done.get_future();
    if (written.wait_for(std::chrono::seconds(20)) != std::future_status::ready) return 5;
    if (!written.get().ok()) return 3;
  }
  return 0;
}

TEST(Ledger, GenerationsChangeThoughNoFileCanGrow) {
  const TemporaryDirectory run_dir, fault_dir;
  Child child("", fault_dir.path(), [&](int) {
    return WriteWithoutRoom(run_dir.path(), [&] {
      uintmax_t largest = 0;
      for (const auto& entry : fs::directory_iterator(run_dir.path() / "coordinator")) {
        largest = std::max(largest, entry.file_size());
      }
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{.rlim_cur = largest, .rlim_max = largest};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    });
  });
  const int status = child.Wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(OpenLedger(run_dir.path(), 2)->recovered().generation.generation, 300);
}

TEST(Ledger, GenerationsChangeOnAFullDisk) {
  const TemporaryDirectory run_dir, fault_dir;
  constexpr int kNoMount = 77;
  Child child("", fault_dir.path(), [&](int) {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", run_dir.path().c_str(), "tmpfs", 0, "size=6m") != 0) {
      return kNoMount;
    }
    return WriteWithoutRoom(run_dir.path(), [&] {
      const FileDescriptor fd(
          ::open((run_dir.path() / "filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
      const std::string block(4096, 'x');
      while (::write(fd.get(), block.data(), block.size()) > 0) {
      }
    });
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no right to mount a file system of 6 MiB";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace albef
