#include "coordinator/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/exit_code.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

Outcome Finished(std::string state, ExitCode exit_code, int64_t step) {
  return {.state = std::move(state),
          .reason = "why",
          .exit_code = static_cast<int>(exit_code),
          .step = step};
}

TEST(DecideStart, ChoosesByWhatTheDirectoryHolds) {
  struct Case {
    const char* name;
    bool has_checkpoints;
    std::optional<Outcome> finished;
    std::string resume;
    int64_t target_step;
    StartAction expected;
  };
  const Case cases[] = {
      {"empty", false, {}, "", 10, StartAction::kNew},
      {"empty, never", false, {}, "never", 10, StartAction::kNew},
      {"empty, auto", false, {}, "auto", 10, StartAction::kNew},
      {"empty, path", false, {}, "a.pth", 10, StartAction::kImport},
      {"killed", true, {}, "", 10, StartAction::kContinue},
      {"killed after an import", true, {}, "a.pth", 10, StartAction::kContinue},
      {"preempted", true, Finished("PREEMPTED", ExitCode::kPreempted, 5), "", 10,
       StartAction::kContinue},
      {"stopped", true, Finished("STOPPED", ExitCode::kDone, 5), "", 10, StartAction::kContinue},
      {"done", true, Finished("SUCCEEDED", ExitCode::kDone, 10), "", 10, StartAction::kAlreadyDone},
      {"done, now longer", true, Finished("SUCCEEDED", ExitCode::kDone, 10), "", 20,
       StartAction::kContinue},
      {"failed, auto", true, Finished("FAILED", ExitCode::kFailed, 5), "auto", 10,
       StartAction::kContinue},
      {"failed before any checkpoint, auto", false, Finished("FAILED", ExitCode::kFailed, 0),
       "auto", 10, StartAction::kNew},
      {"full disk", true, Finished("FAILED", ExitCode::kStorage, 5), "", 10,
       StartAction::kContinue},
  };
  for (const Case& c : cases) {
    const auto action = DecideStart({.run_dir = "runs/a",
                                     .has_checkpoints = c.has_checkpoints,
                                     .finished = c.finished,
                                     .target_step = c.target_step},
                                    ParseResumeRequest(c.resume));
    ASSERT_TRUE(action.ok()) << c.name << ": " << action.status();
    EXPECT_EQ(*action, c.expected) << c.name;
  }
}

TEST(DecideStart, RefusesToMixRuns) {
  const auto action =
      DecideStart({.run_dir = "runs/a", .has_checkpoints = true, .finished = {}, .target_step = 10},
                  ParseResumeRequest("never"));
  EXPECT_THAT(std::string(action.status().message()), HasSubstr("runs/a: holds checkpoints"));
}

TEST(DecideStart, WantsAWordBeforeItRepeatsAFailure) {
  const auto action = DecideStart({.run_dir = "runs/a",
                                   .has_checkpoints = true,
                                   .finished = Finished("FAILED", ExitCode::kFailed, 5),
                                   .target_step = 10},
                                  ParseResumeRequest(""));
  EXPECT_THAT(std::string(action.status().message()), HasSubstr("(why)"));
  EXPECT_THAT(std::string(action.status().message()), HasSubstr("--resume auto"));
}

TEST(RunDirectoryLock, IsHeldByOneAndReleasedAtTheEnd) {
  TemporaryDirectory directory;
  const auto run_dir = directory.path() / "run";
  {
    const auto first = RunDirectoryLock::Acquire(run_dir);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(RunDirectoryLock::Acquire(run_dir).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(RunDirectoryLock::Acquire(run_dir).ok());
}

}  // namespace
}  // namespace albef
