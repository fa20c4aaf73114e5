#include "common/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include "common/file.h"

namespace albef {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Gives the process its logger back.
class LogTest : public ::testing::Test {
 protected:
  ~LogTest() override { spdlog::set_default_logger(previous_); }

 private:
  std::shared_ptr<spdlog::logger> previous_ = spdlog::default_logger();
};

TEST_F(LogTest, WritesOneLineWithTimeLevelAndProcessToStderrAndTheFile) {
  TemporaryDirectory directory;
  testing::internal::CaptureStderr();
  ASSERT_TRUE(
      StartLogging({.process = "trainer-3", .level = "info", .run_dir = directory.path()}).ok());
  spdlog::debug("hidden");
  spdlog::info("checkpoint committed step={} path={}", 1200, LogValue("a b"));
  const std::string on_stderr = testing::internal::GetCapturedStderr();
  EXPECT_THAT(
      on_stderr,
      MatchesRegex("[0-9]+-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\\.[0-9]+Z "
                   "info trainer-3\\[[0-9]+\\] checkpoint committed step=1200 "
                   "path=\"a b\"\n"));
  EXPECT_EQ(*ReadFile(directory.path() / "logs" / "trainer-3.log"), on_stderr);
}

TEST_F(LogTest, AppendsToTheFileOfAnEarlierProcess) {
  TemporaryDirectory directory;
  testing::internal::CaptureStderr();
  for (const char* event : {"first", "second"}) {
    ASSERT_TRUE(StartLogging({.process = "worker", .run_dir = directory.path()}).ok());
    spdlog::info(event);
  }
  testing::internal::GetCapturedStderr();
  const std::string log = *ReadFile(directory.path() / "logs" / "worker.log");
  EXPECT_THAT(log, HasSubstr(" first\n"));
  EXPECT_THAT(log, HasSubstr(" second\n"));
}

TEST_F(LogTest, GoesOnWithoutAFileThatCannotBeOpened) {
  TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "logs", "in the way").ok());
  testing::internal::CaptureStderr();
  EXPECT_TRUE(StartLogging({.process = "worker", .run_dir = directory.path()}).ok());
  spdlog::info("still here");
  const std::string on_stderr = testing::internal::GetCapturedStderr();
  EXPECT_THAT(on_stderr, HasSubstr("no log file reason="));
  EXPECT_THAT(on_stderr, HasSubstr("still here"));
}

TEST_F(LogTest, LosesLinesOnAFullDiskAndNothingElse) {
  TemporaryDirectory directory;
  ASSERT_TRUE(CreateDirectories(directory.path() / "logs").ok());
  std::filesystem::create_symlink("/dev/full", directory.path() / "logs" / "worker.log");
  testing::internal::CaptureStderr();
  ASSERT_TRUE(StartLogging({.process = "worker", .run_dir = directory.path()}).ok());
  spdlog::info("on stderr all the same");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("on stderr all the same"));
}

TEST_F(LogTest, RefusesUnknownLevelsAndNamesThatArePaths) {
  EXPECT_THAT(std::string(StartLogging({.process = "a", .level = "loud"}).message()),
              HasSubstr("allowed: debug, info, warning, error"));
  for (const char* name : {"", "..", "a/b", "../x"}) {
    EXPECT_EQ(StartLogging({.process = name}).code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(LogValue, KeepsAnyTextOnOneLine) {
  EXPECT_EQ(LogValue("data/train.json"), "data/train.json");
  EXPECT_EQ(LogValue("ünï"), "ünï");
  EXPECT_EQ(LogValue(""), "\"\"");
  EXPECT_EQ(LogValue("a b"), "\"a b\"");
  EXPECT_EQ(LogValue("a=b"), "\"a=b\"");
  EXPECT_EQ(LogValue("say \"x\"\\\n\x1b[0m"), "\"say \\\"x\\\"\\\\\\n\\x1b[0m\"");
}

}  // namespace
}  // namespace albef
