#include "coordinator/hang_detector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/restart_budget.h"
#include "coordinator/stop_aware_clock.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const HangLimits kLimits{.hang_limit = seconds(2), .startup_limit = seconds(60)};

WatchedTrainer In(v1::Activity::Section section, double in_it_s, double limit_s) {
  WatchedTrainer trainer{.worker_id = "w"};
  trainer.activity.emplace();
  trainer.activity->set_section(section);
  trainer.activity->set_section_seconds(in_it_s);
  trainer.activity->set_section_limit_seconds(limit_s);
  return trainer;
}

std::vector<Culprit> Find(const WatchedTrainer& trainer) {
  return FindCulprits(std::span(&trainer, 1), kLimits);
}

TEST(HangDetector, NamesWhoExceedsItsOwnLimit) {
  EXPECT_THAT(Find(In(v1::Activity::SECTION_COMPUTE, 3, 4)), IsEmpty());
  const auto culprits = Find(In(v1::Activity::SECTION_COMPUTE, 4.5, 4));
  ASSERT_THAT(culprits, SizeIs(1));
  EXPECT_THAT(culprits[0].reason, HasSubstr("stuck in compute at step 0 for 4.5 s, limit 4.0 s"));
  EXPECT_THAT(Find(In(v1::Activity::SECTION_COMPUTE, 1e6, 0)), IsEmpty());  // no limit
}

TEST(HangDetector, WhoWaitsIsAVictimHoweverLong) {
  EXPECT_THAT(Find(In(v1::Activity::SECTION_EXCHANGE, 1e6, 4)), IsEmpty());
  EXPECT_THAT(Find(In(v1::Activity::SECTION_IDLE, 1e6, 4)), IsEmpty());
}

TEST(HangDetector, ASilentReportingThreadIsAStoppedProcess) {
  WatchedTrainer trainer = In(v1::Activity::SECTION_EXCHANGE, 0, 0);
  trainer.silent_for = seconds(2);
  EXPECT_THAT(Find(trainer), IsEmpty());
  trainer.silent_for = milliseconds(2001);
  EXPECT_THAT(Find(trainer), SizeIs(1));
}

TEST(HangDetector, TheFirstSignOfLifeMayTakeLonger) {
  WatchedTrainer trainer{.worker_id = "w", .silent_for = seconds(59)};
  EXPECT_THAT(Find(trainer), IsEmpty());
  trainer.silent_for = seconds(61);
  EXPECT_THAT(Find(trainer), SizeIs(1));
}

TEST(HangDetector, WhoDoesNotLeaveItsGenerationIsStuckAfterAll) {
  WatchedTrainer trainer = In(v1::Activity::SECTION_EXCHANGE, 20, 0);
  trainer.leaving_for = seconds(9);
  EXPECT_THAT(Find(trainer), IsEmpty());
  trainer.leaving_for = seconds(10);
  EXPECT_THAT(Find(trainer), SizeIs(1));
  trainer = In(v1::Activity::SECTION_COMPUTE, 20, 0);
  trainer.leaving_for = seconds(59);
  EXPECT_THAT(Find(trainer), IsEmpty());
  trainer.leaving_for = seconds(61);
  EXPECT_THAT(Find(trainer), SizeIs(1));
}

TEST(HangDetector, AllWaitOnlyIfAllDo) {
  std::vector<WatchedTrainer> members = {In(v1::Activity::SECTION_EXCHANGE, 10, 0),
                                         In(v1::Activity::SECTION_IDLE, 10, 0)};
  EXPECT_TRUE(AllWaitTooLong(members, kLimits));
  members[0].activity->set_section_seconds(8);
  EXPECT_FALSE(AllWaitTooLong(members, kLimits));
  members[0] = In(v1::Activity::SECTION_COMPUTE, 10, 0);
  EXPECT_FALSE(AllWaitTooLong(members, kLimits));
  EXPECT_FALSE(AllWaitTooLong({}, kLimits));
}

TEST(StopAwareClock, StandsStillWhileTheProcessWasStopped) {
  const MonotonicTime start = MonotonicTime(seconds(50));
  StopAwareClock clock(start);
  EXPECT_EQ(clock.Advance(start + milliseconds(900)), start + milliseconds(900));
  EXPECT_EQ(clock.Advance(start + seconds(31)), start + milliseconds(900));
  EXPECT_EQ(clock.last_gap(), milliseconds(30100));
  EXPECT_EQ(clock.Advance(start + milliseconds(31500)), start + milliseconds(1400));
  EXPECT_EQ(clock.last_gap(), milliseconds(0));
  EXPECT_EQ(clock.Advance(start), start + milliseconds(1400));  // never backwards
}

TEST(RestartBudget, TheFirstRestartIsImmediateLaterOnesWait) {
  const RestartPolicy policy;
  const MonotonicTime start = MonotonicTime(seconds(50));
  RestartBudget budget;
  budget.OnFailure(policy, start);
  EXPECT_EQ(budget.restart_at(), start);
  budget.OnFailure(policy, start);
  EXPECT_EQ(budget.restart_at(), start + milliseconds(500));
  budget.OnFailure(policy, start);
  EXPECT_EQ(budget.restart_at(), start + seconds(1));
  for (int i = 0; i < 20; ++i) budget.OnFailure(policy, start);
  EXPECT_EQ(budget.restart_at(), start + seconds(30));
  budget.OnFailure(policy, start + seconds(61));
  EXPECT_EQ(budget.restart_at(), start + seconds(61));
}

TEST(RestartBudget, OnlyFailuresWithoutProgressUseItUp) {
  const RestartPolicy policy{.max_failures_without_progress = 3};
  RestartBudget budget;
  for (int i = 0; i < 100; ++i) {
    budget.OnFailure(policy, {});
    budget.OnFailure(policy, {});
    EXPECT_FALSE(budget.IsExhausted());
    budget.OnProgress();
  }
  for (int i = 0; i < 3; ++i) budget.OnFailure(policy, {});
  EXPECT_TRUE(budget.IsExhausted());
}

}  // namespace
}  // namespace albef
