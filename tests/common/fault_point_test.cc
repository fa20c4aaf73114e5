#include "common/fault_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(ParseFaults, ReadsEveryPart) {
  const auto faults = ParseFaults(" trainer.1/gate@7:kill  coordinator/renamed:exit=74 ");
  ASSERT_TRUE(faults.ok()) << faults.status();
  ASSERT_EQ(faults->size(), 2u);
  EXPECT_EQ((*faults)[0], (Fault{.process = "trainer.1",
                                 .phase = "gate",
                                 .at = 7,
                                 .action = "kill",
                                 .mark = "trainer.1-gate@7-kill"}));
  EXPECT_EQ((*faults)[1], (Fault{.process = "coordinator",
                                 .phase = "renamed",
                                 .action = "exit",
                                 .number = 74,
                                 .mark = "coordinator-renamed-exit=74"}));
  EXPECT_TRUE(ParseFaults("")->empty());
}

TEST(ParseFaults, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"trainer", "trainer/gate", "trainer:kill", "/gate:kill", "t/:kill",
                           "t/gate@:kill", "t/gate@x:kill", "t/gate:die", "t/gate:exit=",
                           "t/gate:exit=256", "t/gate:value=x", "../x/gate:kill", "t/a/b:kill"}) {
    const auto faults = ParseFaults(text);
    EXPECT_EQ(faults.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(faults.status().message()), HasSubstr(text));
  }
}

// Runs `body` in a child with `faults` armed; its wait status.
int InChild(const fs::path& marks, const char* faults, const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setenv("ALBEF_FAULT", faults, 1);
    ::setenv("ALBEF_FAULT_DIR", marks.c_str(), 1);
    if (!SetFaultProcess("trainer.1").ok()) ::_exit(99);
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, WUNTRACED);
  if (WIFSTOPPED(status)) {
    ::kill(pid, SIGCONT);
    int after = 0;
    ::waitpid(pid, &after, 0);
    EXPECT_TRUE(WIFEXITED(after) && WEXITSTATUS(after) == 0);
  }
  return status;
}

TEST(FaultPoint, KillsAtTheNamedPlaceAndValueAndLeavesAMark) {
  TemporaryDirectory marks;
  const int status = InChild(marks.path(), "trainer.1/gate@2:kill", [] {
    FaultPoint("commit", 2);
    FaultPoint("gate", 1);
    FaultPoint("gate", 2);
    ::_exit(5);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_TRUE(fs::exists(marks.path() / "trainer.1-gate@2-kill"));
  EXPECT_EQ(std::distance(fs::directory_iterator(marks.path()), fs::directory_iterator()), 1);
}

TEST(FaultPoint, CountsArrivalsWhereNoValueIsPassed) {
  TemporaryDirectory marks;
  const int status = InChild(marks.path(), "trainer/save@3:exit=7", [] {
    FaultPoint("save");
    FaultPoint("save");
    if (fs::exists(std::getenv("ALBEF_FAULT_DIR") + std::string("/trainer-save@3-exit=7")))
      ::_exit(1);
    FaultPoint("save");
  });
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(FaultPoint, HappensOnceAmongAllProcesses) {
  TemporaryDirectory marks;
  const char* fault = "trainer/gate:kill";
  const auto body = [] { FaultPoint("gate"); };
  EXPECT_TRUE(WIFSIGNALED(InChild(marks.path(), fault, body)));
  EXPECT_TRUE(WIFEXITED(InChild(marks.path(), fault, body)));
}

TEST(FaultPoint, OfOtherProcessesDoesNothing) {
  TemporaryDirectory marks;
  EXPECT_EQ(InChild(marks.path(), "trainer.2/gate:kill coordinator/gate:kill",
                    [] { FaultPoint("gate"); }),
            0);
  EXPECT_TRUE(fs::is_empty(marks.path()));
}

TEST(FaultPoint, StopsAndGoesOn) {
  TemporaryDirectory marks;
  EXPECT_TRUE(WIFSTOPPED(InChild(marks.path(), "trainer/gate:stop", [] { FaultPoint("gate"); })));
}

TEST(FaultPoint, HoldsUntilTheMarkIsRemoved) {
  TemporaryDirectory marks;
  const fs::path mark = marks.path() / "trainer-gate-hold";
  std::thread remover([&] {
    while (!fs::exists(mark)) std::this_thread::yield();
    fs::remove(mark);
  });
  EXPECT_EQ(InChild(marks.path(), "trainer/gate:hold", [] { FaultPoint("gate"); }), 0);
  remover.join();
}

TEST(FaultPoint, HandsOutDamageOnceAndAValueEveryTimeWhereThatIsAskedFor) {
  TemporaryDirectory marks;
  const int status = InChild(marks.path(), "trainer/gradient:damage trainer/port:value=4711*", [] {
    if (!FaultPoint("gradient") || FaultPoint("gradient")) ::_exit(1);
    if (FaultValue("port") != 4711 || FaultValue("port") != 4711) ::_exit(2);
    if (FaultValue("gate").has_value()) ::_exit(3);
  });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(fs::exists(marks.path() / "trainer-port-value=4711"));
}

TEST(SetFaultProcess, RefusesAMisspeltFaultAndAMissingFolder) {
  TemporaryDirectory marks;
  const int misspelt = InChild(marks.path(), "trainer/gate:klil", [] {});
  EXPECT_EQ(WEXITSTATUS(misspelt), 99);
  const int missing = InChild(marks.path() / "none", "trainer/gate:kill", [] {});
  EXPECT_EQ(WEXITSTATUS(missing), 99);
}

}  // namespace
}  // namespace albef
