#include "coordinator/coordinator_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>
#include <thread>
#include <vector>

#include "common/file.h"
#include "coordinator/pulse.h"
#include "coordinator/run_token.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

mode_t ModeOf(const std::filesystem::path& path) {
  struct stat info;
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 0777;
}

TEST(CoordinatorFile, SaysWhatWasWrittenAndOnlyToItsOwner) {
  const TemporaryDirectory run_dir;
  EXPECT_EQ(ReadCoordinatorFile(run_dir.path()).status().code(), absl::StatusCode::kNotFound);
  const CoordinatorInfo info{.run_id = "r1",
                             .term = 3,
                             .address = "127.0.0.1:4000",
                             .metrics_address = "127.0.0.1:4001",
                             .pid = 17,
                             .host = "n1"};
  ASSERT_TRUE(WriteCoordinatorFile(run_dir.path(), info).ok());
  EXPECT_EQ(*ReadCoordinatorFile(run_dir.path()), info);
  EXPECT_EQ(ModeOf(run_dir.path() / "coordinator.json"), 0600);
}

TEST(CoordinatorFile, RefusesWhatIsNone) {
  const TemporaryDirectory run_dir;
  for (const char* text : {"", "{", "[]", R"({"run_id": "a"})", R"({"run_id":1,"term":"x"})"}) {
    ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "coordinator.json", text).ok());
    const auto info = ReadCoordinatorFile(run_dir.path());
    EXPECT_EQ(info.status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(info.status().message()), HasSubstr("coordinator.json"));
  }
}

TEST(RunToken, IsMadeOnceByWhoeverComesFirst) {
  const TemporaryDirectory run_dir;
  EXPECT_EQ(ReadRunToken(run_dir.path()).status().code(), absl::StatusCode::kNotFound);
  std::vector<std::string> tokens(8);
  std::vector<std::thread> processes;
  for (std::string& token : tokens) {
    processes.emplace_back(
        [&] { token = EnsureRunToken(run_dir.path() / "new").value_or("none"); });
  }
  for (std::thread& process : processes) process.join();
  EXPECT_EQ(std::set(tokens.begin(), tokens.end()).size(), 1u);
  EXPECT_EQ(tokens[0].size(), 64u);
  EXPECT_EQ(*ReadRunToken(run_dir.path() / "new"), tokens[0]);
  EXPECT_EQ(ModeOf(run_dir.path() / "new" / "secrets"), 0700);
  EXPECT_EQ(ModeOf(run_dir.path() / "new" / "secrets" / "token"), 0600);
  const std::filesystem::directory_iterator files(run_dir.path() / "new" / "secrets");
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
  EXPECT_NE(*EnsureRunToken(run_dir.path() / "other"), tokens[0]);
}

TEST(RunToken, ADamagedTokenIsNamedAndNotReplaced) {
  const TemporaryDirectory run_dir;
  std::filesystem::create_directory(run_dir.path() / "secrets");
  ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "secrets" / "token", "short").ok());
  const auto token = EnsureRunToken(run_dir.path());
  EXPECT_EQ(token.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(token.status().message()), HasSubstr("secrets/token"));
}

TEST(Pulse, IsReplacedInPlace) {
  const TemporaryDirectory run_dir;
  ASSERT_TRUE(CreateDirectories(run_dir.path() / "coordinator").ok());
  EXPECT_FALSE(ReadPulse(run_dir.path()).has_value());
  for (const Pulse& pulse : {Pulse{.term = 12, .beat = 123'456, .has_most = true},
                             Pulse{.term = 13, .beat = 1, .has_most = false}}) {
    ASSERT_TRUE(WritePulse(run_dir.path(), pulse).ok());
    EXPECT_EQ(ReadPulse(run_dir.path()), pulse);
  }
  ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "coordinator" / "pulse", "term x").ok());
  EXPECT_FALSE(ReadPulse(run_dir.path()).has_value());
}

}  // namespace
}  // namespace albef
