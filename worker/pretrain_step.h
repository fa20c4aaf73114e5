// One iteration of pretraining over all virtual ranks (design §4, The step).
//
//   1. Prologue: clamp τ, move the teacher.
//   2. For each virtual rank: seed the generators, forward, backward into an arena of its own.
//   3. Mean of the gradients in tree order.
//   4. Gate: one copy of all losses and flags to the host, the iteration's only wait for the
//   device.
//   5. Commit, or skip where a loss or gradient is not finite.
//
// The result is a function of state, inputs and options alone. Not thread-safe.
#ifndef ALBEF_WORKER_PRETRAIN_STEP_H_
#define ALBEF_WORKER_PRETRAIN_STEP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/tree_sum.h"
#include "model/albef.h"
#include "model/schedule.h"
#include "model/train_state.h"

namespace albef {

class PretrainStep {
 public:
  struct Options {
    uint64_t seed = 0;
    int virtual_ranks = 1;
    int64_t steps_per_epoch = 1;
    ScheduleOptions schedule;
    DistillationOptions distillation;
  };

  // Wall time on the host. On a GPU work is queued, so it shows up where the host waits: at the
  // gate.
  struct PhaseSeconds {
    double data_wait = 0;  // for the next batch, its upload included
    double prologue = 0;
    double forward = 0;
    double backward = 0;
    double reduction = 0;
    double gate = 0;
    double commit = 0;
    double total = 0;
  };

  struct Report {
    int64_t iteration = 0;  // of this step, counted from 0
    bool committed = false;
    // Means over the virtual ranks.
    double loss_mlm = 0;
    double loss_itc = 0;
    double loss_itm = 0;
    double temperature = 0;  // used in the step
    double learning_rate = 0;
    double alpha = 0;
    int64_t num_pairs = 0;
    PhaseSeconds seconds;
  };

  // `inputs(v)` yields virtual rank v's batch of this iteration, asked in ascending order.
  using InputSource = std::function<absl::StatusOr<PretrainInputs>(int virtual_rank)>;

  // `state` must outlive the step.
  PretrainStep(TrainState* state, const Options& options);

  // An error is the input source's; the state then is as before but for the prologue, which does
  // not act twice.
  absl::StatusOr<Report> Run(const InputSource& inputs);

  // Gradient arenas held, the state's own included.
  int64_t num_gradient_arenas() const { return num_gradient_arenas_; }

 private:
  TrainState* const state_;
  const Options options_;
  const int64_t num_gradient_arenas_;
  TreeSum sum_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_PRETRAIN_STEP_H_
