#include "worker/trainer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "common/format_absl.h"
#include "common/status_macros.h"
#include "coordinator/progress_line.h"
#include "coordinator/run_setup.h"
#include "dataloader/bad_sample.h"
#include "dataloader/image_transform.h"
#include "worker/checkpointing.h"
#include "worker/compute.h"
#include "worker/device_batch.h"
#include "worker/evaluation.h"
#include "worker/initial_state.h"
#include "worker/pretrain_step.h"
#include "worker/run_options.h"
#include "worker/stop_signal.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// How often and how long a checkpoint that failed is tried again.
constexpr std::chrono::seconds kCheckpointRetry{10};
constexpr int kFinalCheckpointAttempts = 3;

// The loop from the first step of this process to its last.
class Trainer {
 public:
  Trainer(RunSetup* setup, TrainState* state, Recorder* recorder, torch::Device device);

  // The state and reason in which the run leaves this process. Errors: UNAVAILABLE and
  // RESOURCE_EXHAUSTED from storage, ABORTED where a restart would not help.
  absl::StatusOr<Outcome> Run();

 private:
  absl::Status Loop(BatchStream& batches);
  void RecordStep(const PretrainStep::Report& report);
  absl::Status CheckSkipped(const PretrainStep::Report& report);

  bool CheckpointIsDue() const;
  void TakeCheckpoint(const std::string& reason);
  void ReportCheckpoints();
  // Commits the state as it is now; the digest.
  absl::StatusOr<std::string> CommitNow(const std::string& reason);

  bool EvaluationIsDue() const;
  void Evaluate();

  int64_t iteration() const { return state_->counters().iteration; }
  int64_t epochs_done() const { return iteration() / plan().steps_per_epoch(); }
  bool AtEndOfEpoch() const { return iteration() % plan().steps_per_epoch() == 0; }
  const RunConfig& config() const { return setup_->config; }
  const EpochPlan& plan() const { return setup_->plan; }

  RunSetup* const setup_;
  TrainState* const state_;
  Recorder* const recorder_;
  const torch::Device device_;
  PretrainStep step_;
  Checkpointer checkpointer_;
  ProgressPrinter progress_;

  std::optional<int64_t> last_taken_;      // iteration of the last checkpoint begun
  std::string checkpoint_reason_;          // of the one under way
  double checkpoint_stall_s_ = 0;          // of the one under way
  std::optional<int64_t> last_committed_;  // iteration
  std::string last_digest_;                // of last_committed_
  absl::Status last_failure_;              // of the newest checkpoint, OK if it was committed
  std::optional<Clock::time_point> retry_at_;

  int64_t skipped_in_a_row_ = 0;
  // Since the last recorded step.
  Clock::time_point window_start_ = Clock::now();
  int64_t window_pairs_ = 0;
  double window_wait_s_ = 0;
  double seconds_per_step_ = 0;  // smoothed
};

PretrainStep::Options StepOptions(const RunConfig& config, const EpochPlan& plan) {
  return {.seed = config.seed,
          .virtual_ranks = plan.virtual_ranks(),
          .steps_per_epoch = plan.steps_per_epoch(),
          .schedule = LearningRateOptions(config),
          .distillation = AlphaOptions(config)};
}

Trainer::Trainer(RunSetup* setup, TrainState* state, Recorder* recorder, torch::Device device)
    : setup_(setup),
      state_(state),
      recorder_(recorder),
      device_(device),
      step_(state, StepOptions(setup->config, setup->plan)),
      checkpointer_(setup->store.get()),
      progress_(ProgressPrinter::Options::ForDescriptor(STDERR_FILENO)) {
  // What was restored is on disk already.
  if (setup->action == StartAction::kContinue) last_taken_ = last_committed_ = iteration();
}

absl::StatusOr<Outcome> Trainer::Run() {
  if (iteration() < setup_->target_step) {
    ASSIGN_OR_RETURN(const std::unique_ptr<BatchStream> batches,
                     OpenBatches(config(), {.source = setup_->dataset.train,
                                            .tokenizer = setup_->dataset.tokenizer,
                                            .plan = plan(),
                                            .start_iteration = iteration(),
                                            .end_iteration = setup_->target_step,
                                            .on_bad_sample = [this](const BadSample& sample) {
                                              recorder_->RecordBadSample(ToJson(sample));
                                            }}));
    if (absl::Status status = Loop(*batches); !status.ok()) {
      // Nothing is wrong with the state itself: what was reached is kept where that is possible.
      if (!absl::IsAborted(status)) CommitNow("before the end of a failed run").IgnoreError();
      return status;
    }
  }
  progress_.EndLine();
  const bool preempted = iteration() < setup_->target_step;
  Outcome outcome;
  if (preempted) {
    outcome = {.state = "PREEMPTED",
               .reason = fmt::format("{} at step {} of {}", StopSignalName(), iteration(),
                                     setup_->target_step),
               .exit_code = static_cast<int>(ExitCode::kPreempted)};
  } else {
    outcome = {.state = "SUCCEEDED",
               .reason = fmt::format("all {} steps done", setup_->target_step)};
  }
  outcome.step = iteration();
  ASSIGN_OR_RETURN(outcome.state_digest, CommitNow(outcome.reason));
  if (EvaluationIsDue()) Evaluate();
  return outcome;
}

absl::Status Trainer::Loop(BatchStream& batches) {
  const PretrainStep::InputSource inputs = [&](int) -> absl::StatusOr<PretrainInputs> {
    ASSIGN_OR_RETURN(const BatchStream::Handle batch, batches.Next());
    return ToDevice(*batch, device_);
  };
  while (iteration() < setup_->target_step && !StopRequested()) {
    const absl::StatusOr<PretrainStep::Report> step = step_.Run(inputs);
    if (absl::IsDataLoss(step.status())) return absl::AbortedError(step.status().message());
    RETURN_IF_ERROR(step.status());
    const PretrainStep::Report& report = *step;
    RecordStep(report);
    ReportCheckpoints();
    RETURN_IF_ERROR(CheckSkipped(report));
    if (iteration() == setup_->target_step || StopRequested()) break;
    if (CheckpointIsDue()) {
      TakeCheckpoint(AtEndOfEpoch() ? fmt::format("end of epoch {}", epochs_done() - 1)
                                    : fmt::format("step {}", iteration()));
    }
    if (EvaluationIsDue()) Evaluate();
  }
  return absl::OkStatus();
}

void Trainer::RecordStep(const PretrainStep::Report& report) {
  window_pairs_ += report.num_pairs;
  window_wait_s_ += report.seconds.data_wait;
  seconds_per_step_ = seconds_per_step_ == 0
                          ? report.seconds.total
                          : 0.95 * seconds_per_step_ + 0.05 * report.seconds.total;
  const bool last = iteration() == setup_->target_step;
  if (iteration() % config().log_every_steps != 0 && !last) return;
  const double elapsed = SecondsSince(window_start_);
  const int64_t epoch = report.iteration / plan().steps_per_epoch();
  const StepMetrics metrics{.step = iteration(),
                            .epoch = epoch,
                            .loss_mlm = report.loss_mlm,
                            .loss_itc = report.loss_itc,
                            .loss_itm = report.loss_itm,
                            .loss = report.loss_mlm + report.loss_itc + report.loss_itm,
                            .lr = report.learning_rate,
                            .temp = report.temperature,
                            .alpha = report.alpha,
                            .samples_per_second = static_cast<double>(window_pairs_) / elapsed,
                            .data_wait_ratio = window_wait_s_ / elapsed,
                            .skipped = iteration() - state_->counters().updates};
  recorder_->RecordStep(metrics);
  progress_.Show({.step = iteration(),
                  .num_steps = setup_->target_step,
                  .epoch = epoch,
                  .num_epochs = config().schedular.epochs,
                  .loss_mlm = metrics.loss_mlm,
                  .loss_itc = metrics.loss_itc,
                  .loss_itm = metrics.loss_itm,
                  .lr = metrics.lr,
                  .samples_per_second = metrics.samples_per_second,
                  .data_wait_ratio = metrics.data_wait_ratio,
                  .skipped = metrics.skipped,
                  .seconds_per_step = seconds_per_step_});
  window_start_ = Clock::now();
  window_pairs_ = 0;
  window_wait_s_ = 0;
}

absl::Status Trainer::CheckSkipped(const PretrainStep::Report& report) {
  if (report.committed) {
    skipped_in_a_row_ = 0;
    return absl::OkStatus();
  }
  ++skipped_in_a_row_;
  recorder_->RecordEvent({.kind = "step_skipped",
                          .reason = "a loss or gradient is not finite",
                          .facts = {{"step", iteration()}}});
  if (skipped_in_a_row_ < config().max_skipped_steps_in_a_row) return absl::OkStatus();
  return absl::AbortedError(fmt::format(
      "{} steps in a row had a loss or gradient that is not finite, the last one step {}; lower "
      "optimizer.lr, or start from an earlier checkpoint with another seed",
      skipped_in_a_row_, iteration()));
}

bool Trainer::CheckpointIsDue() const {
  if (last_taken_ == iteration()) return false;
  if (retry_at_) return Clock::now() >= *retry_at_ && !checkpointer_.IsBusy();
  const RunConfig::Checkpoint& due = config().checkpoint;
  return (due.every_steps && iteration() % *due.every_steps == 0) ||
         (due.every_epochs && AtEndOfEpoch() && epochs_done() % *due.every_epochs == 0);
}

void Trainer::TakeCheckpoint(const std::string& reason) {
  const Clock::time_point start = Clock::now();
  checkpointer_.Wait();
  ReportCheckpoints();
  CheckpointInfo info;
  info.counters.epoch = epochs_done();
  info.config_digest = ConfigDigest(config());
  info.virtual_ranks = plan().virtual_ranks();
  info.seed = config().seed;
  info.facts = ComputeFacts(device_);
  info.facts["steps_per_epoch"] = std::to_string(plan().steps_per_epoch());
  checkpointer_.Take(*state_, std::move(info));
  last_taken_ = iteration();
  checkpoint_reason_ = reason;
  checkpoint_stall_s_ = SecondsSince(start);
}

void Trainer::ReportCheckpoints() {
  for (const CheckpointOutcome& outcome : checkpointer_.TakeOutcomes()) {
    last_failure_ = outcome.manifest.status();
    if (!outcome.manifest.ok()) {
      progress_.EndLine();
      spdlog::warn("checkpoint of step {} failed, training goes on: {}", outcome.iteration,
                   outcome.manifest.status().message());
      recorder_->RecordEvent({.kind = "checkpoint_failed",
                              .reason = std::string(outcome.manifest.status().message()),
                              .facts = {{"step", outcome.iteration}}});
      retry_at_ = Clock::now() + kCheckpointRetry;
      continue;
    }
    retry_at_.reset();
    last_committed_ = outcome.iteration;
    last_digest_ = ToHex(outcome.manifest->state_digest);
    recorder_->RecordEvent(
        {.kind = "checkpoint_committed",
         .reason = checkpoint_reason_,
         .facts = {{"step", outcome.iteration},
                   {"path", (setup_->store->root() / StepName(outcome.iteration)).string()},
                   {"state_digest", last_digest_},
                   {"stall_s", checkpoint_stall_s_},
                   {"write_s", outcome.write_seconds},
                   {"verify_s", outcome.verify_seconds}}});
    if (!outcome.deleted.ok()) {
      spdlog::warn("old checkpoints could not be removed: {}", outcome.deleted.status().message());
    }
  }
}

absl::StatusOr<std::string> Trainer::CommitNow(const std::string& reason) {
  checkpointer_.Wait();
  ReportCheckpoints();
  for (int attempt = 0; last_committed_ != iteration() && attempt < kFinalCheckpointAttempts;
       ++attempt) {
    TakeCheckpoint(reason);
    checkpointer_.Wait();
    ReportCheckpoints();
  }
  if (last_committed_ != iteration()) {
    return absl::Status(
        last_failure_.code(),
        fmt::format("the checkpoint of step {} cannot be written ({}); {}", iteration(),
                    last_failure_.message(),
                    last_committed_ ? fmt::format("the newest one is of step {}", *last_committed_)
                                    : std::string("there is none before it")));
  }
  if (last_digest_.empty()) {
    // Nothing was done since the restore.
    ASSIGN_OR_RETURN(const Manifest manifest,
                     ReadManifest(setup_->store->root() / StepName(iteration())));
    last_digest_ = ToHex(manifest.state_digest);
  }
  return last_digest_;
}

bool Trainer::EvaluationIsDue() const {
  if (!setup_->dataset.eval || StopRequested()) return false;
  return iteration() == setup_->target_step ||
         (AtEndOfEpoch() && epochs_done() % config().eval.every_epochs == 0);
}

void Trainer::Evaluate() {
  const Clock::time_point start = Clock::now();
  const auto loader = EvaluationImageLoader::Create(
      {.image_res = static_cast<int>(config().image_res), .compat = AugmentCompat(config())});
  Albef model = state_->model();
  const absl::StatusOr<RetrievalResult> result = [&]() -> absl::StatusOr<RetrievalResult> {
    RETURN_IF_ERROR(loader.status());
    return EvaluateRetrieval(model, *setup_->dataset.eval, *loader,
                             {.image_res = config().image_res,
                              .batch_size = config().eval.batch_size,
                              .rerank_top_k = config().eval.rerank_top_k,
                              .num_threads = static_cast<int>(config().data.num_threads),
                              .device = device_,
                              .cancelled = StopRequested});
  }();
  progress_.EndLine();
  if (!result.ok()) {
    spdlog::warn("evaluation at step {} failed, training goes on: {}", iteration(),
                 result.status().message());
    recorder_->RecordEvent({.kind = "evaluation_failed",
                            .reason = std::string(result.status().message()),
                            .facts = {{"step", iteration()}}});
    return;
  }
  Event event{.kind = "evaluation",
              .facts = {{"step", iteration()},
                        {"epoch", epochs_done()},
                        {"num_images", result->num_images},
                        {"num_texts", result->num_texts},
                        {"duration_s", SecondsSince(start)}}};
  const auto add = [&](const char* direction, const char* ranking, const Recall& recall) {
    spdlog::info("evaluation step={} direction={} ranking={} r1={:.3f} r5={:.3f} r10={:.3f}",
                 iteration(), direction, ranking, recall.at_1, recall.at_5, recall.at_10);
    event.facts.emplace_back(fmt::format("{}.{}.at_1", direction, ranking), recall.at_1);
    event.facts.emplace_back(fmt::format("{}.{}.at_5", direction, ranking), recall.at_5);
    event.facts.emplace_back(fmt::format("{}.{}.at_10", direction, ranking), recall.at_10);
  };
  for (const auto& [name, direction] : {std::pair{"image_to_text", result->image_to_text},
                                        {"text_to_image", result->text_to_image}}) {
    add(name, "chance", direction.chance);
    add(name, "itc", direction.itc);
    add(name, "itm", direction.itm);
  }
  recorder_->RecordEvent(event);
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
  return Trainer(&setup, state.get(), &recorder, device).Run();
}

std::string OutOfMemoryAdvice(const char* what) {
  return fmt::format(
      "out of memory ({}); lower batch_size, virtual_ranks, image_res, queue_size or "
      "data.prefetch_batches",
      what);
}

// LibTorch reports a failed allocation of host memory as a plain error; its text is the only sign.
bool IsOutOfMemory(const c10::Error& error) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string_view(error.what()).find("DefaultCPUAllocator") != std::string_view::npos;
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

  absl::StatusOr<Outcome> outcome = [&]() -> absl::StatusOr<Outcome> {
    try {
      return TrainPrepared(*setup, **recorder, device);
    } catch (const c10::Error& error) {
      if (IsOutOfMemory(error)) {
        return absl::AbortedError(OutOfMemoryAdvice(error.what_without_backtrace()));
      }
      return absl::InternalError(error.what());
    } catch (const std::bad_alloc& error) {
      return absl::AbortedError(OutOfMemoryAdvice(error.what()));
    } catch (const std::exception& error) {
      return absl::InternalError(error.what());
    }
  }();
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
