// The iterations of a run and what happens between two of them: reports, checkpoints, evaluation
// (design §4, §7).
//
// A loop lives as long as its trainer. It runs one generation after the other: Run() iterates with
// the members of one generation until the run's last step is done, a flag raised at the gate asks
// to hold, or an exchange with the other members fails. Only rank 0 writes checkpoints, evaluates
// and reports events; every rank reports steps, of which the recorder keeps one.
//
// Used from one thread.
#ifndef ALBEF_WORKER_TRAINING_LOOP_H_
#define ALBEF_WORKER_TRAINING_LOOP_H_

#include <torch/torch.h>

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
    // Told every decision, once it has been acted on.
    std::function<void(const GateDecision&)> decided = [](const GateDecision&) {};
    // True where the process should come to its end without delay.
    std::function<bool()> cancelled = [] { return false; };
  };

  // Why Run() returned.
  struct Boundary {
    bool done = false;   // the last step is committed or skipped
    uint32_t flags = 0;  // of the gate, those that hold the loop
  };

  // The arguments must outlive the loop; `state` is in place before the first Run().
  TrainingLoop(RunSetup* setup, TrainState* state, RunLog* log, Options options);

  // Errors: UNAVAILABLE and RESOURCE_EXHAUSTED from storage, ABORTED where a restart would not
  // help, and what the communicator reports; HoldsIteration() says whether Apply() may follow.
  absl::StatusOr<Boundary> Run(Place place);

  // The iteration whose decision this trainer missed while it holds all that applying it takes.
  bool HoldsIteration() const { return step_ && step_->holds_iteration(); }

  // Ends the held iteration as the other members did.
  void Apply(const GateDecision& decision);

  // The newest decision seen, which led to the state as it is.
  const std::optional<GateDecision>& last_decision() const { return last_decision_; }

  // The state was replaced: nothing is held, checkpoints of before say nothing.
  void StateReplaced(bool is_on_disk);

  // Commits the state as it is now, unless that is done; the digest.
  absl::StatusOr<std::string> CommitCheckpoint(const std::string& reason);

  void EvaluateIfDue();

 private:
  absl::Status CheckSkipped(const PretrainStep::Report& report);
  void ReportStep(const PretrainStep::Report& report);

  bool CheckpointIsDue() const;
  void TakeCheckpoint(const std::string& reason);
  void ReportCheckpoints();

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
  std::optional<GateDecision> last_decision_;
  Checkpointer checkpointer_;

  std::optional<int64_t> last_taken_;      // iteration of the last checkpoint begun
  std::string checkpoint_reason_;          // of the one under way
  double checkpoint_stall_s_ = 0;          // of the one under way
  std::optional<int64_t> last_committed_;  // iteration
  std::string last_digest_;                // of last_committed_
  absl::Status last_failure_;              // of the newest checkpoint, OK if it was committed
  std::optional<Clock::time_point> retry_at_;

  int rank_ = 0;  // and the next two: of the generation of the last Run()
  int64_t num_workers_ = 1;
  int64_t generation_ = 0;
  int64_t skipped_in_a_row_ = 0;
  // Since the last reported step.
  Clock::time_point window_start_ = Clock::now();
  int64_t window_pairs_ = 0;
  double window_wait_s_ = 0;
  double seconds_per_step_ = 0;  // smoothed
};

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINING_LOOP_H_
