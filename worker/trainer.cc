#include "worker/trainer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <utility>

#include "common/format_absl.h"
#include "common/status_macros.h"
#include "coordinator/progress_line.h"
#include "coordinator/run_setup.h"
#include "worker/compute.h"
#include "worker/initial_state.h"
#include "worker/stop_signal.h"
#include "worker/torch_errors.h"
#include "worker/training_loop.h"

namespace albef {
namespace {

// Writes to the run directory and shows progress on the terminal.
class TerminalLog final : public RunLog {
 public:
  TerminalLog(const RunSetup& setup, Recorder* recorder)
      : target_step_(setup.target_step),
        num_epochs_(setup.config.schedular.epochs),
        recorder_(recorder),
        progress_(ProgressPrinter::Options::ForDescriptor(STDERR_FILENO)) {}
  ~TerminalLog() override { progress_.EndLine(); }

  void RestartAfter(int64_t step, const std::string& reason) override {
    recorder_->RestartAfter(step, reason);
  }

  void RecordStep(const StepMetrics& metrics) override {
    recorder_->RecordStep(metrics);
    const std::lock_guard lock(mutex_);
    progress_.Show(ProgressOf(metrics, target_step_, num_epochs_));
  }

  void RecordEvent(const Event& event) override {
    {
      const std::lock_guard lock(mutex_);
      progress_.EndLine();
    }
    recorder_->RecordEvent(event);
  }

  void RecordBadSample(std::string json) override { recorder_->RecordBadSample(std::move(json)); }

 private:
  const int64_t target_step_;
  const int64_t num_epochs_;
  Recorder* const recorder_;
  std::mutex mutex_;
  ProgressPrinter progress_;  // guarded by mutex_
};

// The run from here to its end; the state and reason in which it leaves this process. Errors:
// UNAVAILABLE and RESOURCE_EXHAUSTED from storage, ABORTED where a restart would not help.
absl::StatusOr<Outcome> TrainAlone(RunSetup& setup, TrainState& state, Recorder& recorder,
                                   torch::Device device) {
  TerminalLog log(setup, &recorder);
  TrainingLoop loop(&setup, &state, &log,
                    {.device = device,
                     .raised_flags = [] { return StopRequested() ? gate_flag::kPreempt : 0U; },
                     .cancelled = StopRequested});
  loop.StateReplaced(/*is_on_disk=*/setup.action == StartAction::kContinue);
  const absl::StatusOr<TrainingLoop::Boundary> boundary =
      loop.Run(Place::Alone(setup.plan.virtual_ranks()));
  if (!boundary.ok()) {
    // Nothing is wrong with the state itself: what was reached is kept where that is possible.
    if (!absl::IsAborted(boundary.status())) {
      loop.CommitCheckpoint("before the end of a failed run").IgnoreError();
    }
    return boundary.status();
  }
  Outcome outcome{.step = state.counters().iteration};
  if (boundary->done) {
    outcome.state = "SUCCEEDED";
    outcome.reason = fmt::format("all {} steps done", setup.target_step);
  } else {
    outcome.state = "PREEMPTED";
    outcome.reason =
        fmt::format("{} at step {} of {}", StopSignalName(), outcome.step, setup.target_step);
    outcome.exit_code = static_cast<int>(ExitCode::kPreempted);
  }
  ASSIGN_OR_RETURN(outcome.state_digest, loop.CommitCheckpoint(outcome.reason));
  if (boundary->done) loop.EvaluateIfDue();
  return outcome;
}

// Prepared run → outcome. Everything below may throw what LibTorch throws.
absl::StatusOr<Outcome> TrainPrepared(RunSetup& setup, Recorder& recorder,
                                      const std::string& device_name) {
  ASSIGN_OR_RETURN(
      const torch::Device device,
      ConfigureCompute({.device = device_name,
                        .threads = static_cast<int>(*setup.config.threads_per_worker),
                        .deterministic = *setup.config.deterministic,
                        .tf32 = setup.config.precision == RunConfig::Precision::kTf32}));
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainState> state,
                   MakeInitialState(setup, recorder, device));
  RETURN_IF_ERROR(WriteFileAtomic(setup.run_dir / "config.yaml", ResolvedYaml(setup.config)));
  spdlog::info(
      "training run_dir={} step={} target_step={} epochs={} steps_per_epoch={} "
      "virtual_ranks={} batch_size={} pairs={} threads={} device={}",
      setup.run_dir.string(), state->counters().iteration, setup.target_step,
      setup.config.schedular.epochs, setup.plan.steps_per_epoch(), setup.plan.virtual_ranks(),
      setup.config.batch_size, setup.plan.num_samples(), *setup.config.threads_per_worker,
      device.str());
  return TrainAlone(setup, *state, recorder, device);
}

}  // namespace

ExitCode Train(RunRequest request) {
  const std::string device = request.device;
  absl::StatusOr<RunSetup> setup = RunSetup::Prepare(std::move(request));
  if (!setup.ok()) {
    spdlog::error("{}", setup.status().message());
    return ExitCodeFor(setup.status());
  }
  if (setup->action == StartAction::kAlreadyDone) {
    spdlog::info("{}: this run has ended with all {} steps done; nothing to do",
                 setup->run_dir.string(), setup->target_step);
    return ExitCode::kDone;
  }
  absl::StatusOr<std::unique_ptr<Recorder>> recorder = Recorder::Open({.run_dir = setup->run_dir});
  if (!recorder.ok()) {
    spdlog::error("{}", recorder.status().message());
    return ExitCodeFor(recorder.status());
  }

  absl::StatusOr<Outcome> outcome =
      CatchExceptions([&] { return TrainPrepared(*setup, **recorder, device); });
  if (!outcome.ok()) {
    const ExitCode code = ExitCodeFor(outcome.status());
    spdlog::error("{}", outcome.status().message());
    if (code == ExitCode::kUsage) return code;
    outcome = Outcome{.state = "FAILED",
                      .reason = std::string(outcome.status().message()),
                      .exit_code = static_cast<int>(code)};
  }
  Event event{
      .kind = outcome->state, .reason = outcome->reason, .facts = {{"step", outcome->step}}};
  if (!outcome->state_digest.empty()) {
    event.facts.emplace_back("state_digest", outcome->state_digest);
  }
  (*recorder)->RecordEvent(event);
  if (const absl::Status status = (*recorder)->RecordOutcome(*outcome); !status.ok()) {
    spdlog::error("{}", status.message());
    return ExitCode::kStorage;
  }
  spdlog::info("{} step={} state_digest={} reason=\"{}\"", outcome->state, outcome->step,
               outcome->state_digest, outcome->reason);
  return static_cast<ExitCode>(outcome->exit_code);
}

}  // namespace albef
