#include "worker/training_loop.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "common/format_absl.h"
#include "common/status_macros.h"
#include "dataloader/bad_sample.h"
#include "dataloader/image_transform.h"
#include "worker/compute.h"
#include "worker/device_batch.h"
#include "worker/evaluation.h"
#include "worker/run_options.h"

namespace albef {
namespace {

// How often and how long a checkpoint that failed is tried again.
constexpr std::chrono::seconds kCheckpointRetry{10};
constexpr int kFinalCheckpointAttempts = 3;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TrainingLoop::TrainingLoop(RunSetup* setup, TrainState* state, RunLog* log, Options options)
    : setup_(setup),
      state_(state),
      log_(log),
      options_(std::move(options)),
      checkpointer_(setup->store.get()) {}

void TrainingLoop::StateReplaced(bool is_on_disk) {
  step_.reset();
  last_decision_.reset();
  last_digest_.clear();
  last_taken_.reset();
  last_committed_.reset();
  if (is_on_disk) last_taken_ = last_committed_ = iteration();
}

void TrainingLoop::Apply(const GateDecision& decision) {
  step_->Apply(decision);
  last_decision_ = decision;
}

absl::StatusOr<TrainingLoop::Boundary> TrainingLoop::Run(Place place) {
  if (iteration() >= setup_->target_step) return Boundary{.done = true};
  rank_ = place.rank;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<BatchStream> batches,
      OpenBatches(config(), {.source = setup_->dataset.train,
                             .tokenizer = setup_->dataset.tokenizer,
                             .plan = plan(),
                             .virtual_rank_begin = static_cast<int>(place.hosted().begin),
                             .virtual_rank_end = static_cast<int>(place.hosted().end),
                             .start_iteration = iteration(),
                             .end_iteration = setup_->target_step,
                             .on_bad_sample = [this](const BadSample& sample) {
                               log_->RecordBadSample(ToJson(sample));
                             }}));
  const PretrainStep::InputSource inputs = [&](int64_t) -> absl::StatusOr<PretrainInputs> {
    ASSIGN_OR_RETURN(const BatchStream::Handle batch, batches->Next());
    return ToDevice(*batch, options_.device);
  };
  num_workers_ = static_cast<int64_t>(place.slices.size());
  generation_ = place.generation;
  step_ = std::make_unique<PretrainStep>(
      state_,
      PretrainStep::Options{.seed = config().seed,
                            .virtual_ranks = plan().virtual_ranks(),
                            .batch_size = config().batch_size,
                            .steps_per_epoch = plan().steps_per_epoch(),
                            .schedule = LearningRateOptions(config()),
                            .distillation = AlphaOptions(config()),
                            .raised_flags = options_.raised_flags,
                            .enter = options_.enter},
      std::move(place));
  while (true) {
    const absl::StatusOr<PretrainStep::Report> step = step_->Run(inputs);
    if (absl::IsDataLoss(step.status())) return absl::AbortedError(step.status().message());
    RETURN_IF_ERROR(step.status());
    last_decision_ = step->decision;
    options_.decided(step->decision);
    ReportStep(*step);
    ReportCheckpoints();
    RETURN_IF_ERROR(CheckSkipped(*step));
    const Boundary boundary{.done = iteration() == setup_->target_step,
                            .flags = step->decision.flags & gate_flag::kHold};
    if (boundary.done) return boundary;
    if (rank_ == 0) {
      if (step->decision.flags & gate_flag::kCheckpoint && last_taken_ != iteration()) {
        TakeCheckpoint("asked for");
      } else if (CheckpointIsDue()) {
        TakeCheckpoint(AtEndOfEpoch() ? fmt::format("end of epoch {}", epochs_done() - 1)
                                      : fmt::format("step {}", iteration()));
      }
      EvaluateIfDue();
    }
    if (boundary.flags != 0) return boundary;
  }
}

void TrainingLoop::ReportStep(const PretrainStep::Report& report) {
  window_pairs_ += report.num_pairs;
  window_wait_s_ += report.seconds.data_wait;
  seconds_per_step_ = seconds_per_step_ == 0
                          ? report.seconds.total
                          : 0.95 * seconds_per_step_ + 0.05 * report.seconds.total;
  const bool last = iteration() == setup_->target_step;
  if (iteration() % config().log_every_steps != 0 && !last) return;
  const double elapsed = SecondsSince(window_start_);
  const GateDecision& decision = report.decision;
  log_->RecordStep({.step = iteration(),
                    .epoch = decision.iteration / plan().steps_per_epoch(),
                    .loss_mlm = decision.loss_mlm,
                    .loss_itc = decision.loss_itc,
                    .loss_itm = decision.loss_itm,
                    .loss = decision.loss_mlm + decision.loss_itc + decision.loss_itm,
                    .lr = report.learning_rate,
                    .temp = decision.temperature,
                    .alpha = report.alpha,
                    .samples_per_second = static_cast<double>(window_pairs_) / elapsed,
                    .data_wait_ratio = window_wait_s_ / elapsed,
                    .workers = num_workers_,
                    .generation = generation_,
                    .skipped = iteration() - state_->counters().updates,
                    .seconds_per_step = seconds_per_step_});
  window_start_ = Clock::now();
  window_pairs_ = 0;
  window_wait_s_ = 0;
}

absl::Status TrainingLoop::CheckSkipped(const PretrainStep::Report& report) {
  if (report.decision.committed) {
    skipped_in_a_row_ = 0;
    return absl::OkStatus();
  }
  ++skipped_in_a_row_;
  if (rank_ == 0) {
    log_->RecordEvent({.kind = "step_skipped",
                       .reason = "a loss or gradient is not finite",
                       .facts = {{"step", iteration()}}});
  }
  if (skipped_in_a_row_ < config().max_skipped_steps_in_a_row) return absl::OkStatus();
  return absl::AbortedError(fmt::format(
      "{} steps in a row had a loss or gradient that is not finite, the last one step {}; lower "
      "optimizer.lr, or start from an earlier checkpoint with another seed",
      skipped_in_a_row_, iteration()));
}

bool TrainingLoop::CheckpointIsDue() const {
  if (last_taken_ == iteration()) return false;
  if (retry_at_) return Clock::now() >= *retry_at_ && !checkpointer_.IsBusy();
  const RunConfig::Checkpoint& due = config().checkpoint;
  return (due.every_steps && iteration() % *due.every_steps == 0) ||
         (due.every_epochs && AtEndOfEpoch() && epochs_done() % *due.every_epochs == 0);
}

void TrainingLoop::TakeCheckpoint(const std::string& reason) {
  const Clock::time_point start = Clock::now();
  options_.enter(Section::kCheckpoint);
  checkpointer_.Wait();
  ReportCheckpoints();
  CheckpointInfo info;
  info.counters.epoch = epochs_done();
  info.config_digest = ConfigDigest(config());
  info.virtual_ranks = plan().virtual_ranks();
  info.seed = config().seed;
  info.facts = ComputeFacts(options_.device);
  info.facts["steps_per_epoch"] = std::to_string(plan().steps_per_epoch());
  options_.enter(Section::kSnapshot);
  checkpointer_.Take(*state_, std::move(info));
  last_taken_ = iteration();
  checkpoint_reason_ = reason;
  checkpoint_stall_s_ = SecondsSince(start);
}

void TrainingLoop::ReportCheckpoints() {
  for (const CheckpointOutcome& outcome : checkpointer_.TakeOutcomes()) {
    last_failure_ = outcome.manifest.status();
    if (!outcome.manifest.ok()) {
      spdlog::warn("checkpoint of step {} failed, training goes on: {}", outcome.iteration,
                   outcome.manifest.status().message());
      log_->RecordEvent({.kind = "checkpoint_failed",
                         .reason = std::string(outcome.manifest.status().message()),
                         .facts = {{"step", outcome.iteration}}});
      retry_at_ = Clock::now() + kCheckpointRetry;
      continue;
    }
    retry_at_.reset();
    last_committed_ = outcome.iteration;
    last_digest_ = ToHex(outcome.manifest->state_digest);
    log_->RecordEvent(
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

absl::StatusOr<std::string> TrainingLoop::CommitCheckpoint(const std::string& reason) {
  options_.enter(Section::kCheckpoint);
  checkpointer_.Wait();
  ReportCheckpoints();
  for (int attempt = 0; last_committed_ != iteration() && attempt < kFinalCheckpointAttempts;
       ++attempt) {
    TakeCheckpoint(reason);
    options_.enter(Section::kCheckpoint);
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

void TrainingLoop::EvaluateIfDue() {
  if (!setup_->dataset.eval || options_.cancelled()) return;
  if (iteration() != setup_->target_step &&
      !(AtEndOfEpoch() && epochs_done() % config().eval.every_epochs == 0)) {
    return;
  }
  options_.enter(Section::kEvaluate);
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
                              .device = options_.device,
                              .cancelled = options_.cancelled});
  }();
  if (!result.ok()) {
    spdlog::warn("evaluation at step {} failed, training goes on: {}", iteration(),
                 result.status().message());
    log_->RecordEvent({.kind = "evaluation_failed",
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
  log_->RecordEvent(event);
}

}  // namespace albef
