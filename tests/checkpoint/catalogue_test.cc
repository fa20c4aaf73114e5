#include "checkpoint/catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/file.h"

namespace albef {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kMaxStep = std::numeric_limits<int64_t>::max();

TEST(Catalogue, NamesSurviveTheirParsers) {
  EXPECT_EQ(StepName(1200), "step-0000001200");
  EXPECT_EQ(PartialName({1200, 3, 7}), "step-0000001200.t3.g7.partial");
  for (const int64_t step :
       {int64_t{0}, int64_t{9'999'999'999}, int64_t{10'000'000'000}, kMaxStep}) {
    EXPECT_EQ(ParseStepName(StepName(step)), step);
    EXPECT_EQ(ParseDeletingName(DeletingName(step)), step);
    const PartialId id{step, std::numeric_limits<uint64_t>::max(), 0};
    EXPECT_EQ(ParsePartialName(PartialName(id)), id);
  }
}

TEST(Catalogue, RefusesNamesItWouldNotMake) {
  for (const char* name : {"",
                           "step-",
                           "step-1200",
                           "step-00000012000",
                           "step-000000120x",
                           "step--000000001",
                           "step-+000001200",
                           "step- 000001200",
                           "Step-0000001200",
                           "step-0000001200 ",
                           "step-0000001200/",
                           "step-0000001200.",
                           "step-9223372036854775808",
                           "step-99999999999999999999999",
                           "step-0000001200.partial",
                           "step-0000001200.t3.partial",
                           "step-0000001200.t03.g7.partial",
                           "step-0000001200.t3.g7.partial2",
                           "step-0000001200.t3.g7",
                           "step-0000001200.t-3.g7.partial",
                           "step-0000001200.g7.t3.partial",
                           "step-1.t3.g7.partial",
                           "step-0000001200.t3.g18446744073709551616.partial",
                           "step-1200.deleting",
                           ".deleting",
                           "step-0000001200.damaged-1",
                           "step-0000001200.replaced-1",
                           "x/step-0000001200"}) {
    EXPECT_FALSE(ParseStepName(name).has_value()) << name;
    EXPECT_FALSE(ParsePartialName(name).has_value()) << name;
    EXPECT_FALSE(ParseDeletingName(name).has_value()) << name;
  }
}

TEST(Catalogue, ListsFoldersNewestFirstAndLeavesOthersAlone) {
  TemporaryDirectory directory;
  for (const char* name :
       {"step-0000000100", "step-0000000300", "step-0000000200", "step-0000000400.t1.g2.partial",
        "step-0000000050.deleting", "step-0000000150.damaged-1", "notes"}) {
    ASSERT_TRUE(CreateDirectories(directory.path() / name).ok());
  }
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "step-0000000900", "a file").ok());
  const auto catalogue = ScanCheckpoints(directory.path());
  ASSERT_TRUE(catalogue.ok());
  EXPECT_THAT(catalogue->committed, ElementsAre(300, 200, 100));
  EXPECT_THAT(catalogue->partial, ElementsAre(PartialId{400, 1, 2}));
  EXPECT_THAT(catalogue->deleting, ElementsAre(50));
  EXPECT_EQ(ScanCheckpoints(directory.path() / "none").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(FindCheckpoint, TakesACheckpointARunOrARunsCheckpoints) {
  TemporaryDirectory directory;
  const auto& run = directory.path();
  const auto newest = run / "checkpoints/step-0000000300";
  for (const char* name : {"step-0000000100", "step-0000000300", "step-0000000400.t1.g2.partial"}) {
    ASSERT_TRUE(CreateDirectories(run / "checkpoints" / name).ok());
    ASSERT_TRUE(WriteFileAtomic(run / "checkpoints" / name / "manifest.json", "{}").ok());
  }
  EXPECT_EQ(*FindCheckpoint(run), newest);
  EXPECT_EQ(*FindCheckpoint(run / "checkpoints"), newest);
  const auto chosen = run / "checkpoints/step-0000000100";
  EXPECT_EQ(*FindCheckpoint(chosen), chosen);
}

TEST(FindCheckpoint, NamesWhatHoldsNone) {
  TemporaryDirectory directory;
  const absl::Status empty = FindCheckpoint(directory.path()).status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.message()),
              ::testing::StartsWith(directory.path().string() + ": holds no checkpoint"));
  EXPECT_EQ(FindCheckpoint(directory.path() / "none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace albef
