#include "worker/activity.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ActivityTest : public ::testing::Test {
 protected:
  // One iteration that computes for `compute` and then waits for others.
  void Iterate(ActivityTracker::Clock::duration compute) {
    tracker_.Enter(Section::kCompute);
    now_ += compute;
    tracker_.Enter(Section::kExchange);
    now_ += milliseconds(5);
    tracker_.EndIteration(++iteration_);
  }

  ActivityTracker::Clock::time_point now_;
  int64_t iteration_ = 0;
  ActivityTracker tracker_{{.hang_limit_s = 10, .startup_limit_s = 600}, [this] { return now_; }};
};

TEST_F(ActivityTest, SaysWhatItIsBusyWithAndSinceWhen) {
  tracker_.StartGeneration(3, 40);
  tracker_.Enter(Section::kData);
  now_ += milliseconds(1500);
  const ActivityTracker::Snapshot now = tracker_.Now();
  EXPECT_EQ(now.section, Section::kData);
  EXPECT_DOUBLE_EQ(now.section_seconds, 1.5);
  EXPECT_EQ(now.generation, 3);
  EXPECT_EQ(now.iteration, 40);
}

TEST_F(ActivityTest, IsPatientUntilAGenerationIsWarm) {
  tracker_.StartGeneration(1, 0);
  for (int i = 0; i < 5; ++i) {
    tracker_.Enter(Section::kCompute);
    EXPECT_EQ(tracker_.Now().section_limit_seconds, 600) << i;
    Iterate(milliseconds(100));
  }
  tracker_.Enter(Section::kCompute);
  EXPECT_EQ(tracker_.Now().section_limit_seconds, 10);
  tracker_.StartGeneration(2, 5);
  EXPECT_EQ(tracker_.Now().section_limit_seconds, 600);
}

TEST_F(ActivityTest, AllowsFiveTimesWhatAStepUsuallyTakes) {
  tracker_.StartGeneration(1, 0);
  for (int i = 0; i < 300; ++i) Iterate(seconds(4));
  tracker_.Enter(Section::kCompute);
  EXPECT_DOUBLE_EQ(tracker_.Now().section_limit_seconds, 20);
}

TEST_F(ActivityTest, OneSlowStepDoesNotStretchTheLimit) {
  tracker_.StartGeneration(1, 0);
  for (int i = 0; i < 200; ++i) Iterate(i == 50 ? seconds(100) : seconds(4));
  tracker_.Enter(Section::kCompute);
  EXPECT_DOUBLE_EQ(tracker_.Now().section_limit_seconds, 20);
}

TEST_F(ActivityTest, WhoWaitsForOthersIsNeverStuck) {
  tracker_.StartGeneration(1, 0);
  for (int i = 0; i < 10; ++i) Iterate(milliseconds(100));
  tracker_.Enter(Section::kExchange);
  EXPECT_EQ(tracker_.Now().section_limit_seconds, 0);
  tracker_.Enter(Section::kIdle);
  EXPECT_EQ(tracker_.Now().section_limit_seconds, 0);
  tracker_.Enter(Section::kEvaluate);
  EXPECT_EQ(tracker_.Now().section_limit_seconds, 600);
}

}  // namespace
}  // namespace albef
