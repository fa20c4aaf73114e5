#include "worker/report_backlog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace albef {
namespace {

using ::testing::ElementsAre;

v1::TrainerMessage Step(int64_t step) {
  v1::TrainerMessage message;
  message.mutable_report()->mutable_step()->set_step(step);
  return message;
}

v1::TrainerMessage EventOf(const std::string& kind) {
  v1::TrainerMessage message;
  message.mutable_report()->mutable_event()->set_kind(kind);
  return message;
}

std::vector<int64_t> Sequences(const std::vector<v1::WorkerMessage>& messages) {
  std::vector<int64_t> sequences;
  for (const v1::WorkerMessage& message : messages) {
    sequences.push_back(message.from_trainer().sequence());
  }
  return sequences;
}

TEST(ReportBacklog, NumbersReportsAndKeepsThemUntilTheyAreAcknowledged) {
  ReportBacklog backlog;
  EXPECT_EQ(backlog.Add(7, Step(1)).from_trainer().sequence(), 1);
  EXPECT_EQ(backlog.Add(7, EventOf("resumed")).from_trainer().sequence(), 2);
  EXPECT_EQ(backlog.Add(8, Step(2)).from_trainer().incarnation(), 8);
  EXPECT_THAT(Sequences(backlog.TakeUnacknowledged(8)), ElementsAre(1, 2, 3));
  backlog.Acknowledge(2);
  EXPECT_THAT(Sequences(backlog.TakeUnacknowledged(8)), ElementsAre(3));
  backlog.Acknowledge(3);
  EXPECT_TRUE(backlog.TakeUnacknowledged(8).empty());
  EXPECT_EQ(backlog.num_bytes(), 0);
  EXPECT_EQ(backlog.Add(8, Step(3)).from_trainer().sequence(), 4);
}

TEST(ReportBacklog, AcknowledgementsThatAreOldOrRepeatedChangeNothing) {
  ReportBacklog backlog;
  for (int i = 0; i < 4; ++i) backlog.Add(7, Step(i));
  backlog.Acknowledge(3);
  backlog.Acknowledge(1);
  backlog.Acknowledge(3);
  EXPECT_THAT(Sequences(backlog.TakeUnacknowledged(7)), ElementsAre(4));
}

TEST(ReportBacklog, GivesUpTheOldestStepsAndTellsHowMany) {
  ReportBacklog probe;
  probe.Add(7, Step(1));
  const size_t step_bytes = probe.num_bytes();
  const size_t max_bytes = 40 * step_bytes;
  ReportBacklog backlog(max_bytes);
  backlog.Add(7, EventOf("e"));
  for (int i = 0; i < 200; ++i) backlog.Add(7, Step(i + 1));
  EXPECT_LE(backlog.num_bytes(), max_bytes);
  EXPECT_GE(backlog.num_given_up(), 160);
  const int64_t given_up = backlog.num_given_up();
  const auto kept = backlog.TakeUnacknowledged(7);
  ASSERT_FALSE(kept.empty());
  EXPECT_EQ(kept.front().from_trainer().message().report().event().kind(), "e");
  const v1::EventReport& told = kept.back().from_trainer().message().report().event();
  EXPECT_EQ(told.kind(), "reports_dropped");
  EXPECT_EQ(told.facts(0).integer(), given_up);
}

TEST(ReportBacklog, GivesUpEventsOnlyWhenNoStepIsLeft) {
  ReportBacklog probe;
  probe.Add(7, EventOf("event"));
  ReportBacklog backlog(3 * probe.num_bytes());
  backlog.Add(7, Step(1));
  for (int i = 0; i < 2; ++i) backlog.Add(7, EventOf("event"));
  EXPECT_EQ(backlog.num_given_up(), 0);
  backlog.Add(7, EventOf("event"));
  EXPECT_EQ(backlog.num_given_up(), 1);  // the step
  backlog.Add(7, EventOf("event"));
  EXPECT_EQ(backlog.num_given_up(), 2);
}

TEST(ReportBacklog, CountsTheBytesOfWhatItKeeps) {
  ReportBacklog backlog(1000);
  for (int i = 0; i < 500; ++i) {
    backlog.Add(7, i % 3 == 0 ? EventOf(std::string(static_cast<size_t>(i % 40), 'x')) : Step(i));
    if (i % 5 == 0) backlog.Acknowledge(i - 2);
    EXPECT_LE(backlog.num_bytes(), 1000);
  }
  backlog.Acknowledge(500);
  EXPECT_EQ(backlog.num_bytes(), 0);
}

}  // namespace
}  // namespace albef
