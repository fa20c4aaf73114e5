#include "coordinator/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "coordinator/run_log_messages.h"

namespace albef {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr int64_t kPairsPerStep = 64;

StepMetrics MakeStep(int64_t step) {
  return {.step = step,
          .data_wait_ratio = 0.25,
          .seconds_per_step = 0.4,
          .phases = {.data_wait = 0.1, .forward = 0.2, .gate = 0.003}};
}

std::string TextOf(const RunCounters& counters) { return FormatMetrics({.counters = counters}); }

TEST(RunCounters, CountEachStepOnceWhateverIsReportedAgain) {
  RunCounters counters(/*newest_step=*/10);
  counters.OnStep(MakeStep(10), kPairsPerStep);  // before this coordinator's time
  counters.OnStep(MakeStep(12), kPairsPerStep);  // two since the last report
  counters.OnStep(MakeStep(12), kPairsPerStep);  // another rank's
  EXPECT_EQ(counters.steps(), 2);
  EXPECT_EQ(counters.samples(), 2 * kPairsPerStep);
  EXPECT_DOUBLE_EQ(counters.data_wait_seconds(), 2 * 0.4 * 0.25);
}

TEST(RunCounters, CountWhatMustBeDoneAgain) {
  RunCounters counters;
  counters.OnStep(MakeStep(12), kPairsPerStep);
  counters.OnRestart(9);
  EXPECT_EQ(counters.lost_steps(), 3);
  counters.OnStep(MakeStep(10), kPairsPerStep);
  EXPECT_EQ(counters.steps(), 13);
}

TEST(FormatMetrics, ShowsWhereAnIterationsTimeGoes) {
  RunCounters counters;
  counters.OnStep(MakeStep(1), kPairsPerStep);
  counters.OnStep(MakeStep(2), kPairsPerStep);
  const std::string text = TextOf(counters);
  for (const char* line : {"# TYPE pretrain_step_phase_seconds histogram",
                           "pretrain_step_phase_seconds_sum{phase=\"forward\"} 0.4",
                           "pretrain_step_phase_seconds_count{phase=\"forward\"} 2",
                           "pretrain_step_phase_seconds_bucket{phase=\"gate\",le=\"0.002\"} 0",
                           "pretrain_step_phase_seconds_bucket{phase=\"gate\",le=\"0.005\"} 2"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(FormatMetrics, SaysNothingOfLossesBeforeTheFirstStep) {
  EXPECT_THAT(TextOf(RunCounters()), Not(HasSubstr("pretrain_loss")));
}

TEST(RunCounters, BoundTheNumberOfReasonsThatWorkersInvent) {
  RunCounters counters;
  for (int i = 0; i < 1000; ++i) {
    counters.OnBadSample("{\"reason\": \"" + std::to_string(i) + "\"}");
  }
  counters.OnBadSample("no JSON");
  EXPECT_LE(counters.bad_samples().size(), 17U);
  EXPECT_GE(counters.bad_samples().at("other"), 900);
}

TEST(StepReports, CarryThePhases) {
  const StepMetrics sent = MakeStep(3);
  const StepMetrics received = MetricsOf(ReportOf(sent));
  for (const Phase& phase : kPhases) {
    EXPECT_EQ(received.phases.*phase.seconds, sent.phases.*phase.seconds) << phase.name;
  }
}

}  // namespace
}  // namespace albef
