// Whole albef-worker processes that start their coordinator themselves (coordinator_probe.cc).
#include <gmock/gmock.h>

#include "tests/worker/worker_process.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using EmbeddedCoordinator = WorkerProcess;

TEST_F(EmbeddedCoordinator, LeavesACoordinatorThatIsStoppedForTheNextOne) {
  auto worker = Start({"--set", "elastic.heartbeat_limit_s=1"});
  const int64_t pid = CoordinatorPid(1);
  EXPECT_TRUE(LogHas("in session with the coordinator run_id=run-1 term=1"));
  ::kill(static_cast<pid_t>(pid), SIGSTOP);
  CoordinatorPid(2);
  EXPECT_TRUE(LogHas("in session with the coordinator run_id=run-1 term=2"));
  EXPECT_TRUE(IsGone(pid));
}

TEST_F(EmbeddedCoordinator, StartsACoordinatorAndReplacesItWhenItDies) {
  auto worker = Start({});
  const int64_t first = CoordinatorPid(1);
  EXPECT_TRUE(LogHas("in session with the coordinator run_id=run-1 term=1"));
  ::kill(static_cast<pid_t>(first), SIGKILL);
  const int64_t second = CoordinatorPid(2);
  EXPECT_TRUE(LogHas("in session with the coordinator run_id=run-1 term=2"));
  const auto starts = CoordinatorStarts();
  ASSERT_EQ(starts.size(), 2);
  EXPECT_THAT(starts[0], AllOf(HasSubstr("--listen=127.0.0.1:0"), HasSubstr("--progress"),
                               Not(HasSubstr("--after-term"))));
  EXPECT_THAT(starts[1], HasSubstr("--after-term=1"));
  ::kill(worker->pid(), SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return IsGone(second); }));
}

TEST_F(EmbeddedCoordinator, ARefusedCoordinatorEndsItWithTheSameCode) {
  std::ofstream(run_dir_ / "script") << "exit 64\n";
  auto worker = Start({});
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 64}));
  EXPECT_THAT(Log(), HasSubstr("coordinator probe: refused"));
  EXPECT_EQ(CoordinatorStarts().size(), 1);
}

TEST_F(EmbeddedCoordinator, WaitsForItsCoordinatorToTellTheOthers) {
  std::ofstream(run_dir_ / "script") << "end 75\n";
  auto worker = Start({});
  const int64_t pid = CoordinatorPid(1);
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 75}));
  EXPECT_TRUE(IsGone(pid));
  EXPECT_EQ(CoordinatorStarts().size(), 1);
}

TEST_F(EmbeddedCoordinator, OthersTakeOverInOrderWhenTheFirstWorkerIsGone) {
  auto first = StartTask(0, 3);
  const int64_t pid = CoordinatorPid(1);
  auto second = StartTask(1, 3);
  auto third = StartTask(2, 3);
  ASSERT_TRUE(WaitUntil([&] { return NumSessions(1) == 3; })) << Log();
  ::kill(first->pid(), SIGKILL);
  const auto killed_at = steady_clock::now();
  EXPECT_TRUE(WaitUntil([&] { return IsGone(pid); }));  // with its parent
  CoordinatorPid(2);
  EXPECT_GE(steady_clock::now() - killed_at, milliseconds(2900));  // 2 s + 1 s × 1
  EXPECT_TRUE(WaitUntil([&] { return NumSessions(2) == 2; })) << Log();
  // Where the second is slow, the third starts one too, which ends when it finds the term taken.
  EXPECT_LE(CoordinatorStarts().size(), 3) << Log();
  EXPECT_THAT(CoordinatorStarts()[1], HasSubstr("--parent-pid=" + std::to_string(second->pid())));
}

TEST_F(EmbeddedCoordinator, AStoppedFirstWorkerFollowsTheOneThatTookOver) {
  auto first = StartTask(0, 2);
  const int64_t pid = CoordinatorPid(1);
  auto second = StartTask(1, 2);
  ASSERT_TRUE(WaitUntil([&] { return NumSessions(1) == 2; })) << Log();
  ::kill(first->pid(), SIGSTOP);
  ::kill(static_cast<pid_t>(pid), SIGKILL);
  CoordinatorPid(2);
  ASSERT_TRUE(WaitUntil([&] { return NumSessions(2) == 1; })) << Log();
  ::kill(first->pid(), SIGCONT);
  EXPECT_TRUE(WaitUntil([&] { return NumSessions(2) == 2; })) << Log();
  EXPECT_EQ(CoordinatorStarts().size(), 2) << Log();
}

}  // namespace
}  // namespace albef
