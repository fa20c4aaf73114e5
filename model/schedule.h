// Learning rate and distillation weight of every iteration (spec §3, §5).
//
// Pure functions of the place in the run. The learning rate is the authors' epoch-wise cosine, with
// a staircase warm-up whose "epochs" are stretches of `step_size` iterations of epoch 0: iteration
// j ≥ 1 of epoch 0 is at stair min(⌊(j−1)/step_size⌋, warmup_epochs), iteration 0 at stair 0. A
// short epoch 0 cuts the ramp off. From epoch 1 on the rate is constant within an epoch.
#ifndef ALBEF_MODEL_SCHEDULE_H_
#define ALBEF_MODEL_SCHEDULE_H_

#include <cstdint>

namespace albef {

// The authors' YAML group `schedular`; the values must have passed the checks of the config.
struct ScheduleOptions {
  double lr = 1e-4;  // `optimizer.lr`: their scheduler starts from it and ignores `schedular.lr`
  double min_lr = 1e-5;
  double warmup_lr = 1e-5;
  int64_t epochs = 30;
  int64_t warmup_epochs = 20;
  int64_t step_size = 100;
};

// Place in a run: `step` counts the iterations of the epoch from 0.
struct EpochPosition {
  int64_t epoch = 0;
  int64_t step = 0;
};

EpochPosition PositionOf(int64_t iteration, int64_t steps_per_epoch);

double LearningRate(const ScheduleOptions& options, EpochPosition position);

struct DistillationOptions {
  double alpha = 0.4;
  bool ramp = true;  // grow linearly from 0 over epoch 0
};

// Weight α of the momentum teacher's soft targets.
double DistillationWeight(const DistillationOptions& options, EpochPosition position,
                          int64_t steps_per_epoch);

}  // namespace albef

#endif  // ALBEF_MODEL_SCHEDULE_H_
