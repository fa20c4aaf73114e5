// The iterations of a run and what happens between two of them: reports, checkpoints, evaluation
// (design §4, §7).
//
// A loop lives as long as its state. It runs one generation after the other: Run() iterates with
// the members of one generation until the run's last step is done, a flag raised at the gate asks
// to hold, the members' states are found to differ, or an exchange with the other members fails.
// All ranks write their shards of the same checkpoints; only rank 0 evaluates and reports events;
// every rank reports steps, of which the recorder keeps one.
//
// Used from one thread.
#ifndef ALBEF_WORKER_TRAINING_LOOP_H_
#define ALBEF_WORKER_TRAINING_LOOP_H_

#include <torch/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/run_log.h"
#include "coordinator/run_setup.h"
#include "dataloader/batch_stream.h"
#include "model/train_state.h"
#include "worker/checkpointing.h"
#include "worker/pretrain_step.h"

namespace albef {

class TrainingLoop {
 public:
  struct Options {
    torch::Device device = torch::kCPU;
    // Flags to raise at the next gate.
    std::function<uint32_t()> raised_flags = [] { return 0U; };
    // Told what this trainer is busy with.
    std::function<void(Section)> enter = [](Section) {};
    // Told each batch before it is computed.
    std::function<void(const Batch&)> batch_begun = [](const Batch&) {};
    // Told every decision, once it has been acted on.
    std::function<void(const GateDecision&)> decided = [](const GateDecision&) {};
    // Told the step of each checkpoint whose shard was taken.
    std::function<void(int64_t)> checkpoint_taken = [](int64_t) {};
    // True once the generation is to be left: asked between iterations and during evaluations.
    std::function<bool()> should_leave = [] { return false; };
    // Told, on another thread, what became of each shard of a checkpoint.
    ShardWriter::Callback shard_written = [](const v1::ShardWritten&) {};
  };

  // Why Run() returned.
  struct Boundary {
    bool done = false;   // the last step is committed or skipped
    uint32_t flags = 0;  // of the gate, those that hold the loop
    bool left = false;   // should_leave
    // The members cannot go on together; the iteration was not done.
    std::optional<StateDifference> difference = {};
  };

  // The arguments must outlive the loop; `state` is in place before the first Run().
  TrainingLoop(RunSetup* setup, TrainState* state, RunLog* log, Options options);

  // `last_evaluation`: the newest step whose evaluation is recorded. Errors: UNAVAILABLE and
  // RESOURCE_EXHAUSTED from storage, ABORTED where a restart would not help (memory that runs out
  // with the keys that save some), and what the communicator reports; HoldsIteration() says whether
  // Apply() may follow.
  absl::StatusOr<Boundary> Run(Place place, int64_t last_evaluation = 0);

  // The iteration whose decision this trainer missed while it holds all that applying it takes.
  bool HoldsIteration() const { return step_ && step_->holds_iteration(); }

  // Ends the held iteration as the other members did.
  void Apply(const GateDecision& decision);

  // Nothing of the last generation is needed any more, its communicator neither. What was computed
  // of an iteration that failed is kept for the next Run().
  void ForgetGeneration();

  // Held at a boundary: writes the shard of this boundary's checkpoint, or reports again that this
  // is done.
  void CheckpointHeld();

  // The newest decision seen, which led to the state as it is.
  const std::optional<GateDecision>& last_decision() const { return last_decision_; }

 private:
  absl::Status CheckSkipped(const PretrainStep::Report& report);
  void ReportStep(const PretrainStep::Report& report);

  // Why a checkpoint is due after an iteration with these flags; the same on every member.
  std::optional<std::string> CheckpointDue(uint32_t flags) const;
  void TakeCheckpoint(const std::string& reason);
  void EvaluateIfDue();

  int64_t iteration() const { return state_->counters().iteration; }
  int64_t epochs_done() const { return iteration() / plan().steps_per_epoch(); }
  bool AtEndOfEpoch() const { return iteration() % plan().steps_per_epoch() == 0; }
  const RunConfig& config() const { return setup_->config; }
  const EpochPlan& plan() const { return setup_->plan; }

  using Clock = std::chrono::steady_clock;

  RunSetup* const setup_;
  TrainState* const state_;
  RunLog* const log_;
  const Options options_;
  std::unique_ptr<PretrainStep> step_;  // of the generation of the last Run()
  std::optional<UnfinishedIteration> unfinished_;
  std::optional<GateDecision> last_decision_;
  ShardWriter shard_writer_;
  std::optional<int64_t> last_taken_;  // iteration of the last checkpoint begun
  int64_t last_evaluation_ = 0;        // step

  ShardWriter::Place shard_place_;  // in the generation of the last Run()
  int64_t skipped_in_a_row_ = 0;
  // Since the last reported step.
  Clock::time_point window_start_ = Clock::now();
  int64_t window_pairs_ = 0;
  int window_steps_ = 0;
  PhaseSeconds window_phases_;   // sums
  double seconds_per_step_ = 0;  // smoothed
};

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINING_LOOP_H_
