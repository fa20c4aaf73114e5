#include "model/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace albef {
namespace {

nlohmann::json ReadGolden(const std::string& name) {
  const char* folder = std::getenv("ALBEF_GOLDENS");
  const std::filesystem::path path =
      std::filesystem::path(folder != nullptr ? folder : "tests/golden") / "pretrain" / name;
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

ScheduleOptions OptionsFrom(const nlohmann::json& config) {
  const nlohmann::json& schedular = config.at("schedular");
  return {.lr = config.at("optimizer").at("lr"),
          .min_lr = schedular.at("min_lr"),
          .warmup_lr = schedular.at("warmup_lr"),
          .epochs = schedular.at("epochs"),
          .warmup_epochs = schedular.at("warmup_epochs")};
}

void ExpectClose(double actual, double expected, const std::string& where) {
  EXPECT_LE(std::abs(actual - expected), 1e-12 * std::abs(expected))
      << where << ": " << actual << " instead of " << expected;
}

TEST(ScheduleGolden, LearningRateOfEveryIterationMatches) {
  int64_t num_checked = 0;
  const nlohmann::json golden = ReadGolden("schedule.json");
  for (const auto& [name, config] : golden.at("configs").items()) {
    const ScheduleOptions options = OptionsFrom(config);
    for (const nlohmann::json& run : config.at("runs")) {
      const int64_t steps_per_epoch = run.at("iterations_per_epoch");
      const int64_t epochs = run.at("epochs");
      const nlohmann::json& changes = run.at("lr_changes");
      size_t change = 0;
      for (int64_t iteration = 0; iteration < epochs * steps_per_epoch; ++iteration) {
        const EpochPosition position = PositionOf(iteration, steps_per_epoch);
        if (change + 1 < changes.size() && changes[change + 1][0] == position.epoch &&
            changes[change + 1][1] == position.step) {
          ++change;
        }
        ExpectClose(LearningRate(options, position), changes[change][2],
                    name + " iteration " + std::to_string(iteration));
        ++num_checked;
      }
      EXPECT_EQ(change + 1, changes.size()) << name;
    }
  }
  EXPECT_GT(num_checked, 0);
}

TEST(ScheduleGolden, DistillationWeightMatches) {
  int64_t num_checked = 0;
  const nlohmann::json golden = ReadGolden("schedule.json");
  for (const auto& [name, config] : golden.at("configs").items()) {
    if (config.at("alpha").is_null()) continue;
    // Pretraining has no switch and always ramps.
    const DistillationOptions options{
        .alpha = config.at("alpha"),
        .ramp = config.at("warm_up").is_null() || config.at("warm_up").get<bool>()};
    for (const nlohmann::json& run : config.at("runs")) {
      const int64_t steps = run.at("iterations_per_epoch");
      const nlohmann::json& alpha = run.at("alpha");
      ASSERT_EQ(alpha.at("epoch0_count"), steps);
      const nlohmann::json& first = alpha.at("epoch0_first5");
      const nlohmann::json& last = alpha.at("epoch0_last5");
      const auto num_first = static_cast<int64_t>(first.size());
      for (int64_t i = 0; i < num_first; ++i) {
        ExpectClose(DistillationWeight(options, {0, i}, steps), first[i], name);
        ExpectClose(DistillationWeight(options, {0, steps - num_first + i}, steps), last[i], name);
        ++num_checked;
      }
      for (int64_t epoch = 1; epoch < run.at("epochs").get<int64_t>(); ++epoch) {
        ExpectClose(DistillationWeight(options, {epoch, 0}, steps), alpha.at("later_epochs")[0],
                    name);
      }
    }
  }
  EXPECT_GT(num_checked, 0);
}

TEST(ScheduleGolden, StepSizeOfTheTrajectoryIsHonoured) {
  const nlohmann::json curve = ReadGolden("curve.json");
  ScheduleOptions options = OptionsFrom(curve);
  options.step_size = curve.at("schedule_rule").at("step_size");
  options.lr = 3 * options.warmup_lr;
  options.warmup_epochs = 4;
  // The stair of an iteration is the one its predecessor switched to.
  EXPECT_EQ(LearningRate(options, {0, options.step_size}), options.warmup_lr);
  ExpectClose(LearningRate(options, {0, options.step_size + 1}), 1.5 * options.warmup_lr, "stair");
  ExpectClose(LearningRate(options, {0, options.step_size * options.warmup_epochs + 1}), options.lr,
              "top");
}

TEST(Schedule, WithoutWarmUpTheFirstIterationRunsAtTheBaseRate) {
  const ScheduleOptions options{.lr = 3e-4, .warmup_epochs = 0};
  EXPECT_EQ(LearningRate(options, {0, 0}), 3e-4);
  EXPECT_EQ(LearningRate(options, {0, 500}), 3e-4);
}

TEST(Schedule, BeyondTheLastEpochTheRateIsTheFloor) {
  const ScheduleOptions options{.min_lr = 2e-5, .epochs = 3};
  EXPECT_EQ(LearningRate(options, {3, 0}), 2e-5);
  EXPECT_EQ(LearningRate(options, {10, 7}), 2e-5);
}

}  // namespace
}  // namespace albef
