#include "model/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace albef {
namespace {

// The rate at `time`: stairs of the warm-up first, then epochs of the cosine.
double RateAt(const ScheduleOptions& options, int64_t time) {
  if (time < options.warmup_epochs) {
    const double stair =
        (options.lr - options.warmup_lr) / static_cast<double>(options.warmup_epochs);
    return options.warmup_lr + static_cast<double>(time) * stair;
  }
  const int64_t epoch = time - options.warmup_epochs;
  if (epoch >= options.epochs) return options.min_lr;
  const double angle =
      std::numbers::pi * static_cast<double>(epoch) / static_cast<double>(options.epochs);
  return options.min_lr + 0.5 * (options.lr - options.min_lr) * (1 + std::cos(angle));
}

}  // namespace

EpochPosition PositionOf(int64_t iteration, int64_t steps_per_epoch) {
  return {.epoch = iteration / steps_per_epoch, .step = iteration % steps_per_epoch};
}

double LearningRate(const ScheduleOptions& options, EpochPosition position) {
  if (position.epoch > 0) return RateAt(options, position.epoch + options.warmup_epochs);
  // The scheduler moves after the optimizer step, so an iteration sees the stair of the one before.
  const int64_t stair = position.step == 0 ? 0 : (position.step - 1) / options.step_size;
  return RateAt(options, std::min(stair, options.warmup_epochs));
}

double DistillationWeight(const DistillationOptions& options, EpochPosition position,
                          int64_t steps_per_epoch) {
  if (!options.ramp || position.epoch > 0) return options.alpha;
  return options.alpha *
         std::min(1.0, static_cast<double>(position.step) / static_cast<double>(steps_per_epoch));
}

}  // namespace albef
