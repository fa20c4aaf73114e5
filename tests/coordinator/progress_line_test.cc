#include "coordinator/progress_line.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/file.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr Progress kProgress = {.step = 120,
                                .num_steps = 3000,
                                .epoch = 2,
                                .num_epochs = 30,
                                .loss_mlm = 2.4214,
                                .loss_itc = 6.8121,
                                .loss_itm = 0.6385,
                                .lr = 1e-4,
                                .samples_per_second = 12.34,
                                .data_wait_ratio = 0.034,
                                .skipped = 0,
                                .seconds_per_step = 0.25};

TEST(FormatDuration, UsesTheUnitsThatFit) {
  EXPECT_EQ(FormatDuration(0), "0:00:00");
  EXPECT_EQ(FormatDuration(7.4), "0:00:07");
  EXPECT_EQ(FormatDuration(59.6), "0:01:00");
  EXPECT_EQ(FormatDuration(3661), "1:01:01");
  EXPECT_EQ(FormatDuration(99 * 3600 + 3599), "99:59:59");
  EXPECT_EQ(FormatDuration(101 * 3600 + 20 * 60), "4d 05:20");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(FormatDuration(std::nan("")), "?");
  EXPECT_EQ(FormatDuration(-1), "?");
}

TEST(FormatProgress, ShowsStepEpochLossesRateWaitAndEta) {
  EXPECT_EQ(FormatProgress(kProgress),
            "step 120/3000  epoch 2/30  loss 9.872 (mlm 2.421 itc 6.812 itm 0.638)  lr 1.00e-04  "
            "12.3 pairs/s  data wait 3%  ETA 0:12:00");
}

TEST(FormatProgress, ShowsSkippedStepsAndLeavesOutAnUnknownEta) {
  Progress progress = kProgress;
  progress.skipped = 2;
  progress.seconds_per_step.reset();
  progress.loss_mlm = std::nan("");
  const std::string line = FormatProgress(progress);
  EXPECT_THAT(line, EndsWith("data wait 3%  skipped 2"));
  EXPECT_THAT(line, HasSubstr("loss nan (mlm nan itc 6.812"));
}

// What a printer wrote, with a clock that the test moves.
struct Screen {
  std::chrono::steady_clock::time_point now;
  std::vector<std::string> writes;

  ProgressPrinter::Options Options(std::optional<int> columns) {
    return {.columns = columns,
            .write = [this](std::string_view text) { writes.emplace_back(text); },
            .now = [this] { return now; }};
  }
};

TEST(ProgressPrinter, PrintsPlainLinesFromTimeToTime) {
  Screen screen;
  ProgressPrinter printer(screen.Options(std::nullopt));
  Progress progress = kProgress;
  for (int i = 0; i < 25; ++i) {  // one second each
    progress.step = 100 + i;
    printer.Show(progress);
    screen.now += seconds(1);
  }
  ASSERT_THAT(screen.writes, SizeIs(3));
  EXPECT_THAT(screen.writes[0], StartsWith("step 100/"));
  EXPECT_THAT(screen.writes[1], StartsWith("step 110/"));
  EXPECT_THAT(screen.writes[2], StartsWith("step 120/"));
  EXPECT_THAT(screen.writes[2], EndsWith("\n"));
  EXPECT_THAT(screen.writes[2], Not(HasSubstr("\r")));
  progress.step = progress.num_steps;
  printer.Show(progress);
  printer.EndLine();
  ASSERT_THAT(screen.writes, SizeIs(4));
  EXPECT_THAT(screen.writes[3], StartsWith("step 3000/3000"));
}

TEST(ProgressPrinter, RewritesOneLineOfATerminal) {
  Screen screen;
  ProgressPrinter printer(screen.Options(40));
  printer.Show(kProgress);
  screen.now += milliseconds(50);
  printer.Show(kProgress);
  screen.now += milliseconds(50);
  printer.Show(kProgress);
  ASSERT_THAT(screen.writes, SizeIs(2));
  for (const std::string& text : screen.writes) {
    EXPECT_EQ(text, "\rstep 120/3000  epoch 2/30  loss 9.872 (\x1b[K");
    EXPECT_EQ(text.size(), 1 + 39 + 3u);
  }
  printer.EndLine();
  printer.EndLine();
  EXPECT_THAT(screen.writes, SizeIs(3));
  EXPECT_EQ(screen.writes.back(), "\n");
}

TEST(ProgressPrinter, WritesToADescriptorAndSurvivesAFullDisk) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "out";
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT, 0644));
  ProgressPrinter(ProgressPrinter::Options::ForDescriptor(file.get())).Show(kProgress);
  EXPECT_EQ(*ReadFile(path), FormatProgress(kProgress) + "\n");
  FileDescriptor full(::open("/dev/full", O_WRONLY));
  ProgressPrinter(ProgressPrinter::Options::ForDescriptor(full.get())).Show(kProgress);
}

}  // namespace
}  // namespace albef
