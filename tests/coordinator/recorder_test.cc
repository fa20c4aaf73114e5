#include "coordinator/recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::unique_ptr<Recorder> MustOpen(const fs::path& run_dir) {
  auto recorder = Recorder::Open({.run_dir = run_dir, .now = [] {
                                    return std::chrono::system_clock::time_point(
                                        std::chrono::milliseconds(1767225600123));
                                  }});
  EXPECT_TRUE(recorder.ok()) << recorder.status();
  return *std::move(recorder);
}

void Append(const fs::path& path, std::string_view text) {
  ASSERT_TRUE(WriteFileAtomic(path, ReadFile(path).value_or("") + std::string(text)).ok());
}

std::vector<nlohmann::json> Events(const fs::path& run_dir) {
  std::vector<nlohmann::json> events;
  std::istringstream lines(*ReadFile(run_dir / "events.jsonl"));
  for (std::string line; std::getline(lines, line);) events.push_back(nlohmann::json::parse(line));
  return events;
}

std::vector<StepMetrics> Metrics(const fs::path& run_dir) {
  auto metrics = ReadMetrics(run_dir / "metrics.jsonl");
  EXPECT_TRUE(metrics.ok()) << metrics.status();
  return *std::move(metrics);
}

std::vector<int64_t> Steps(const fs::path& run_dir) {
  std::vector<int64_t> steps;
  for (const StepMetrics& metrics : Metrics(run_dir)) steps.push_back(metrics.step);
  return steps;
}

int64_t NumLines(const fs::path& path) {
  const std::string text = *ReadFile(path);
  return std::count(text.begin(), text.end(), '\n');
}

// While it lives, no file may grow beyond `bytes`, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(size_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST(Recorder, WritesEveryFieldOfAStep) {
  TemporaryDirectory run;
  MustOpen(run.path())
      ->RecordStep({.step = 10,
                    .epoch = 1,
                    .loss_mlm = 2.5,
                    .loss_itc = 6.25,
                    .loss_itm = 0.5,
                    .loss = 9.25,
                    .lr = 1e-4,
                    .temp = 0.07,
                    .alpha = 0.4,
                    .samples_per_second = 12.5,
                    .data_wait_ratio = 0.125,
                    .workers = 2,
                    .generation = 3,
                    .skipped = 1});
  EXPECT_EQ(*ReadFile(run.path() / "metrics.jsonl"),
            "{\"step\":10,\"epoch\":1,\"loss_mlm\":2.5,\"loss_itc\":6.25,\"loss_itm\":0.5,"
            "\"loss\":9.25,\"lr\":0.0001,\"temp\":0.07,\"alpha\":0.4,\"samples_per_second\":12.5,"
            "\"data_wait_ratio\":0.125,\"workers\":2,\"generation\":3,\"skipped\":1}\n");
  const StepMetrics read = Metrics(run.path()).at(0);
  EXPECT_EQ(read.step, 10);
  EXPECT_EQ(read.epoch, 1);
  EXPECT_EQ(read.loss_mlm, 2.5);
  EXPECT_EQ(read.loss, 9.25);
  EXPECT_EQ(read.lr, 1e-4);
  EXPECT_EQ(read.workers, 2);
  EXPECT_EQ(read.generation, 3);
  EXPECT_EQ(read.skipped, 1);
}

TEST(Recorder, WritesNullForLossesThatAreNotFinite) {
  TemporaryDirectory run;
  MustOpen(run.path())
      ->RecordStep(
          {.step = 1, .loss_mlm = std::nan(""), .loss = std::numeric_limits<double>::infinity()});
  EXPECT_THAT(*ReadFile(run.path() / "metrics.jsonl"), HasSubstr("\"loss_mlm\":null"));
  const StepMetrics read = Metrics(run.path()).at(0);
  EXPECT_TRUE(std::isnan(read.loss_mlm));
  EXPECT_TRUE(std::isnan(read.loss));
  EXPECT_EQ(read.loss_itc, 0);
}

TEST(Recorder, WritesEventsWithTimeReasonAndFacts) {
  TemporaryDirectory run;
  MustOpen(run.path())
      ->RecordEvent(
          {.kind = "checkpoint_committed",
           .reason = "end of \"epoch\" 3\nbad byte \xff",
           .facts = {
               {"step", 1200}, {"duration_s", 0.5}, {"verified", true}, {"state_digest", "abc"}}});
  EXPECT_EQ(*ReadFile(run.path() / "events.jsonl"),
            "{\"time\":\"2026-01-01T00:00:00.123Z\",\"kind\":\"checkpoint_committed\","
            "\"reason\":\"end of \\\"epoch\\\" 3\\nbad byte \xEF\xBF\xBD\",\"step\":1200,"
            "\"duration_s\":0.5,\"verified\":true,\"state_digest\":\"abc\"}\n");
}

TEST(Recorder, DoesNotWriteAStepTwice) {
  TemporaryDirectory run;
  {
    const auto recorder = MustOpen(run.path());
    EXPECT_EQ(recorder->last_step(), std::nullopt);
    for (int64_t step : {1, 2, 2, 1, 3}) recorder->RecordStep({.step = step});
    EXPECT_EQ(recorder->last_step(), 3);
  }
  const auto recorder = MustOpen(run.path());
  EXPECT_EQ(recorder->last_step(), 3);
  for (int64_t step : {2, 3, 4}) recorder->RecordStep({.step = step});
  EXPECT_THAT(Steps(run.path()), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(NumLines(run.path() / "metrics.jsonl"), 4);
  EXPECT_EQ(recorder->dropped_lines(), 0);
}

TEST(Recorder, CutsOffLinesThatACrashTore) {
  TemporaryDirectory run;
  {
    const auto recorder = MustOpen(run.path());
    recorder->RecordStep({.step = 1});
    recorder->RecordEvent({.kind = "start"});
  }
  const std::string metrics = *ReadFile(run.path() / "metrics.jsonl");
  Append(run.path() / "metrics.jsonl", "{\"step\":2,\"epo");
  Append(run.path() / "events.jsonl", std::string(100000, '\0'));  // as some file systems leave it
  const auto recorder = MustOpen(run.path());
  EXPECT_EQ(*ReadFile(run.path() / "metrics.jsonl"), metrics);
  EXPECT_EQ(recorder->last_step(), 1);
  recorder->RecordStep({.step = 2});
  recorder->RecordEvent({.kind = "resumed"});
  EXPECT_THAT(Steps(run.path()), ElementsAre(1, 2));
  EXPECT_THAT(Events(run.path()), SizeIs(2));
}

TEST(Recorder, CutsOffATornFirstLine) {
  TemporaryDirectory run;
  Append(run.path() / "metrics.jsonl", "{\"st");
  EXPECT_EQ(MustOpen(run.path())->last_step(), std::nullopt);
  EXPECT_EQ(*ReadFile(run.path() / "metrics.jsonl"), "");
}

TEST(Recorder, FindsTheLastStepBehindDamagedLines) {
  TemporaryDirectory run;
  MustOpen(run.path())->RecordStep({.step = 7});
  Append(run.path() / "metrics.jsonl", "\n{}\n[1]\n{\"step\":\"x\"}\n\xff\xfe\n");
  EXPECT_EQ(MustOpen(run.path())->last_step(), 7);
  EXPECT_THAT(Steps(run.path()), ElementsAre(7));
}

TEST(Recorder, AFallBackNamesTheRangeAndReadersTakeTheLastLine) {
  TemporaryDirectory run;
  {
    const auto recorder = MustOpen(run.path());
    for (int64_t step = 1; step <= 5; ++step) recorder->RecordStep({.step = step, .loss = 1});
  }
  const auto recorder = MustOpen(run.path());
  recorder->RestartAfter(3, "checkpoint step 5 is damaged");
  EXPECT_EQ(recorder->last_step(), 3);
  for (int64_t step = 3; step <= 6; ++step) recorder->RecordStep({.step = step, .loss = 2});

  const std::vector<nlohmann::json> events = Events(run.path());
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0]["kind"], "steps_repeated");
  EXPECT_EQ(events[0]["reason"], "checkpoint step 5 is damaged");
  EXPECT_EQ(events[0]["from"], 4);
  EXPECT_EQ(events[0]["to"], 6);
  EXPECT_EQ(NumLines(run.path() / "metrics.jsonl"), 8);
  std::vector<std::pair<int64_t, double>> losses;
  for (const StepMetrics& m : Metrics(run.path())) {
    losses.emplace_back(m.step, m.loss);
  }
  EXPECT_THAT(losses, ElementsAre(std::pair(1, 1.0), std::pair(2, 1.0), std::pair(3, 1.0),
                                  std::pair(4, 2.0), std::pair(5, 2.0), std::pair(6, 2.0)));
}

TEST(Recorder, ARestartAtTheLastStepIsNoFallBack) {
  TemporaryDirectory run;
  const auto recorder = MustOpen(run.path());
  recorder->RestartAfter(0, "new run");
  recorder->RecordStep({.step = 1});
  recorder->RestartAfter(1, "resumed");
  recorder->RestartAfter(2, "resumed");
  EXPECT_THAT(Events(run.path()), IsEmpty());
}

TEST(Recorder, AFullDiskDropsWholeLinesCountsThemAndSaysSoLater) {
  TemporaryDirectory run;
  const auto recorder = MustOpen(run.path());
  recorder->RecordStep({.step = 1});
  const auto size = fs::file_size(run.path() / "metrics.jsonl");
  {
    const FileSizeLimit limit(size + 20);  // room for a part of the next line
    recorder->RecordStep({.step = 2});
    EXPECT_EQ(recorder->dropped_lines(), 1);
    EXPECT_EQ(recorder->last_step(), 1);
    EXPECT_EQ(fs::file_size(run.path() / "metrics.jsonl"), size);  // nothing torn
    recorder->RecordEvent({.kind = "long", .reason = std::string(2000, 'x')});
    recorder->RecordStep({.step = 3});
  }
  // The small report of the first drop may have found room in events.jsonl, the others wait.
  recorder->RecordStep({.step = 4});
  EXPECT_EQ(recorder->dropped_lines(), 3);
  EXPECT_THAT(Steps(run.path()), ElementsAre(1, 4));
  int64_t reported = 0;
  for (const nlohmann::json& event : Events(run.path())) {
    EXPECT_EQ(event["kind"], "lines_dropped");
    reported += event["lines"].get<int64_t>();
  }
  EXPECT_EQ(reported, 3);
}

TEST(Recorder, ADroppedStepMayBeWrittenWhenItIsSentAgain) {
  TemporaryDirectory run;
  const auto recorder = MustOpen(run.path());
  {
    const FileSizeLimit limit(0);
    recorder->RecordStep({.step = 1});
  }
  recorder->RecordStep({.step = 1});
  EXPECT_THAT(Steps(run.path()), ElementsAre(1));
}

TEST(Recorder, WritesWholeLinesFromManyThreads) {
  TemporaryDirectory run;
  const auto recorder = MustOpen(run.path());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&recorder] {
      for (int64_t i = 1; i <= 100; ++i) {
        recorder->RecordStep({.step = i});
        recorder->RecordEvent({.kind = "tick", .facts = {{"step", i}}});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(Steps(run.path()), SizeIs(100));
  EXPECT_EQ(NumLines(run.path() / "metrics.jsonl"), 100);
  EXPECT_THAT(Events(run.path()), SizeIs(400));
}

TEST(Recorder, KeepsTheOutcomeOfTheLastAttempt) {
  TemporaryDirectory run;
  EXPECT_EQ(*ReadOutcome(run.path()), std::nullopt);
  const auto recorder = MustOpen(run.path());
  ASSERT_TRUE(
      recorder->RecordOutcome({.state = "PREEMPTED", .reason = "SIGTERM", .exit_code = 75}).ok());
  const Outcome outcome = {.state = "SUCCEEDED",
                           .reason = "all 30 epochs done",
                           .exit_code = 0,
                           .state_digest = "abc",
                           .step = 1200};
  ASSERT_TRUE(recorder->RecordOutcome(outcome).ok());
  EXPECT_EQ(*ReadOutcome(run.path()), outcome);
}

TEST(ReadOutcome, RefusesWhatIsNoOutcome) {
  TemporaryDirectory run;
  for (const char* text : {"", "{", "[]", "{\"state\": 1}", "\xff"}) {
    ASSERT_TRUE(WriteFileAtomic(run.path() / "outcome.json", text).ok());
    const auto outcome = ReadOutcome(run.path());
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("outcome.json"));
  }
}

TEST(Recorder, NamesTheFileItCannotOpen) {
  TemporaryDirectory run;
  ASSERT_TRUE(CreateDirectories(run.path() / "events.jsonl").ok());
  EXPECT_THAT(std::string(Recorder::Open({.run_dir = run.path()}).status().message()),
              HasSubstr("events.jsonl: cannot open"));
}

}  // namespace
}  // namespace albef
