#include "coordinator/report_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/file.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;

std::vector<Json> LinesOf(const std::filesystem::path& path) {
  std::vector<Json> lines;
  std::istringstream text(ReadFile(path).value_or(""));
  for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line));
  return lines;
}

v1::Report StepOf(int64_t step) {
  v1::Report report;
  report.mutable_step()->set_step(step);
  report.mutable_step()->set_loss_mlm(1);
  report.mutable_step()->set_loss_itc(2);
  report.mutable_step()->set_loss_itm(4);
  return report;
}

v1::Report EventNamed(const std::string& kind) {
  v1::Report report;
  report.mutable_event()->set_kind(kind);
  auto* fact = report.mutable_event()->add_facts();
  fact->set_key("step");
  fact->set_integer(3);
  return report;
}

// One life of a coordinator.
class Life {
 public:
  explicit Life(const std::filesystem::path& run_dir)
      : recorder_(*Recorder::Open({.run_dir = run_dir})) {
    log_ = *ReportLog::Start({.run_dir = run_dir,
                              .recorder = recorder_.get(),
                              .on_recorded = [this](const std::string& worker, int64_t sequence) {
                                acknowledged_[worker] = sequence;
                              }});
  }

  ReportLog& log() { return *log_; }
  std::map<std::string, int64_t> End() {
    log_.reset();
    return acknowledged_;
  }

 private:
  std::unique_ptr<Recorder> recorder_;
  std::map<std::string, int64_t> acknowledged_;
  std::unique_ptr<ReportLog> log_;
};

TEST(ReportLog, WritesReportsOnceAndAcknowledgesEach) {
  const TemporaryDirectory run_dir;
  Life life(run_dir.path());
  for (int64_t step = 1; step <= 3; ++step) {
    life.log().Record("a", step, StepOf(step));
    life.log().Record("b", step, StepOf(step));
  }
  life.log().Record("a", 4, EventNamed("evaluation"));
  life.log().Record("a", 4, EventNamed("evaluation"));
  life.log().Record(Event{.kind = "state", .reason = "why"});
  v1::Report bad;
  bad.set_bad_sample_json(R"({"image": "x.jpg", "reason": "missing_image"})");
  life.log().Record("b", 4, bad);
  bad.set_bad_sample_json("no json\nat all");
  life.log().Record("b", 5, bad);
  EXPECT_EQ(life.End(), (std::map<std::string, int64_t>{{"a", 4}, {"b", 5}}));

  const auto metrics = ReadMetrics(run_dir.path() / "metrics.jsonl");
  ASSERT_TRUE(metrics.ok());
  ASSERT_EQ(metrics->size(), 3u);
  EXPECT_EQ((*metrics)[0].loss, 7);
  EXPECT_EQ(LinesOf(run_dir.path() / "metrics.jsonl").size(), 3u);
  const std::vector<Json> events = LinesOf(run_dir.path() / "events.jsonl");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["kind"], "evaluation");
  EXPECT_EQ(events[0]["step"], 3);
  EXPECT_EQ(events[0]["report"], (Json{{"worker", "a"}, {"sequence", 4}}));
  EXPECT_EQ(events[1]["kind"], "state");
  const std::vector<Json> samples = LinesOf(run_dir.path() / "bad_samples.jsonl");
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0]["image"], "x.jpg");
  EXPECT_EQ(samples[1]["text"], "no json\nat all");
}

TEST(ReportLog, ReportsThatComeAgainToTheNextCoordinatorAreNotDoubled) {
  const TemporaryDirectory run_dir;
  {
    Life life(run_dir.path());
    life.log().Record("a", 1, EventNamed("first"));
    life.log().Record("a", 2, StepOf(1));
    life.log().Record("a", 3, EventNamed("second"));
    life.End();
  }
  Life life(run_dir.path());
  // The acknowledgements were lost: the worker sends everything again, and something new.
  life.log().Record("a", 1, EventNamed("first"));
  life.log().Record("a", 2, StepOf(1));
  life.log().Record("a", 3, EventNamed("second"));
  life.log().Record("a", 4, EventNamed("third"));
  EXPECT_EQ(life.End(), (std::map<std::string, int64_t>{{"a", 4}}));
  std::vector<std::string> kinds;
  for (const Json& event : LinesOf(run_dir.path() / "events.jsonl")) kinds.push_back(event["kind"]);
  EXPECT_THAT(kinds, ElementsAre("first", "second", "third"));
  EXPECT_EQ(LinesOf(run_dir.path() / "metrics.jsonl").size(), 1u);
}

}  // namespace
}  // namespace albef
