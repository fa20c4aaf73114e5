#include "worker/training_loop.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "common/clock.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/status_macros.h"
#include "dataloader/bad_sample.h"
#include "dataloader/image_transform.h"
#include "worker/compute.h"
#include "worker/device_batch.h"
#include "worker/evaluation.h"
#include "worker/run_options.h"
#include "worker/torch_errors.h"

namespace albef {

TrainingLoop::TrainingLoop(RunSetup* setup, TrainState* state, RunLog* log, Options options)
    : setup_(setup),
      state_(state),
      log_(log),
      options_(std::move(options)),
      shard_writer_(setup->store.get(), options_.shard_written) {}

void TrainingLoop::Apply(const GateDecision& decision) {
  step_->Apply(decision);
  last_decision_ = decision;
}

void TrainingLoop::ForgetGeneration() {
  if (step_ == nullptr) return;
  unfinished_ = step_->TakeUnfinished();
  step_.reset();
}

absl::StatusOr<TrainingLoop::Boundary> TrainingLoop::Run(Place place, int64_t last_evaluation) {
  shard_place_ = {.term = place.term,
                  .generation = place.generation,
                  .shard_index = place.rank,
                  .num_shards = static_cast<int>(place.slices.size())};
  last_evaluation_ = std::max(last_evaluation_, last_evaluation);
  // Where the one who should have evaluated did not live to do it.
  EvaluateIfDue();
  if (iteration() >= setup_->target_step) return Boundary{.done = true};
  std::optional<UnfinishedIteration> unfinished = std::exchange(unfinished_, std::nullopt);
  if (unfinished && unfinished->iteration != iteration()) unfinished.reset();
  const RankRange hosted = place.hosted();
  step_ = std::make_unique<PretrainStep>(
      state_,
      PretrainStep::Options{.seed = config().seed,
                            .virtual_ranks = plan().virtual_ranks(),
                            .batch_size = config().batch_size,
                            .steps_per_epoch = plan().steps_per_epoch(),
                            .schedule = LearningRateOptions(config()),
                            .distillation = AlphaOptions(config()),
                            .gradient_order = ReductionOrder(config()),
                            .raised_flags = options_.raised_flags,
                            .enter = options_.enter},
      std::move(place), std::move(unfinished));
  const std::vector<int64_t> missing = step_->MissingRanks();
  if (const auto kept = hosted.size() - static_cast<int64_t>(missing.size()); kept > 0) {
    spdlog::info("step {} goes on where it was: virtual_ranks={} computed_before={}",
                 iteration() + 1, hosted.size(), kept);
  }
  const absl::StatusOr<std::unique_ptr<BatchStream>> batches =
      OpenBatches(config(), {.source = setup_->dataset.train,
                             .tokenizer = setup_->dataset.tokenizer,
                             .plan = plan(),
                             .virtual_rank_begin = static_cast<int>(hosted.begin),
                             .virtual_rank_end = static_cast<int>(hosted.end),
                             .start_iteration = iteration(),
                             .first_virtual_ranks = missing,
                             .end_iteration = setup_->target_step,
                             .on_bad_sample = [this](const BadSample& sample) {
                               log_->RecordBadSample(ToJson(sample));
                             }});
  if (!batches.ok()) return FromLoader(batches.status());
  const PretrainStep::InputSource inputs = [&](int64_t) -> absl::StatusOr<PretrainInputs> {
    const absl::StatusOr<BatchStream::Handle> batch = (*batches)->Next();
    if (!batch.ok()) return FromLoader(batch.status());
    options_.batch_begun(**batch);
    return ToDevice(**batch, options_.device);
  };
  while (true) {
    const absl::StatusOr<PretrainStep::Report> step = step_->Run(inputs);
    RETURN_IF_ERROR(step.status());
    if (step->decision.difference.has_value()) {
      return Boundary{.difference = step->decision.difference};
    }
    last_decision_ = step->decision;
    options_.decided(step->decision);
    ReportStep(*step);
    RETURN_IF_ERROR(CheckSkipped(*step));
    const uint32_t flags = step->decision.flags;
    if (const std::optional<std::string> reason = CheckpointDue(flags)) TakeCheckpoint(*reason);
    EvaluateIfDue();
    const Boundary boundary{.done = iteration() == setup_->target_step,
                            .flags = flags & gate_flag::kHold,
                            .left = options_.should_leave()};
    if (boundary.done || boundary.left || boundary.flags != 0) return boundary;
  }
}

void TrainingLoop::ReportStep(const PretrainStep::Report& report) {
  window_pairs_ += report.num_pairs;
  ++window_steps_;
  for (const Phase& phase : kPhases) {
    window_phases_.*phase.seconds += report.seconds.*phase.seconds;
  }
  seconds_per_step_ = seconds_per_step_ == 0
                          ? report.total_seconds
                          : 0.95 * seconds_per_step_ + 0.05 * report.total_seconds;
  const bool last = iteration() == setup_->target_step;
  if (iteration() % config().log_every_steps != 0 && !last) return;
  const double elapsed = SecondsSince(window_start_);
  const double data_wait_ratio = window_phases_.data_wait / elapsed;
  for (const Phase& phase : kPhases) window_phases_.*phase.seconds /= window_steps_;
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
                    .data_wait_ratio = data_wait_ratio,
                    .workers = shard_place_.num_shards,
                    .generation = shard_place_.generation,
                    .skipped = iteration() - state_->counters().updates,
                    .seconds_per_step = seconds_per_step_,
                    .phases = window_phases_});
  window_start_ = Clock::now();
  window_pairs_ = 0;
  window_steps_ = 0;
  window_phases_ = {};
}

absl::Status TrainingLoop::CheckSkipped(const PretrainStep::Report& report) {
  if (report.decision.committed) {
    skipped_in_a_row_ = 0;
    return absl::OkStatus();
  }
  ++skipped_in_a_row_;
  if (shard_place_.shard_index == 0) {
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

std::optional<std::string> TrainingLoop::CheckpointDue(uint32_t flags) const {
  const RunConfig::Checkpoint& due = config().checkpoint;
  if (iteration() == setup_->target_step) return "last step";
  if (flags & (gate_flag::kPreempt | gate_flag::kStop)) return "before the end of this attempt";
  if (flags & gate_flag::kCheckpoint) return "asked for";
  if (due.every_epochs && AtEndOfEpoch() && epochs_done() % *due.every_epochs == 0) {
    return fmt::format("end of epoch {}", epochs_done() - 1);
  }
  if (due.every_steps && iteration() % *due.every_steps == 0) {
    return fmt::format("step {}", iteration());
  }
  return std::nullopt;
}

void TrainingLoop::TakeCheckpoint(const std::string& reason) {
  options_.enter(Section::kCheckpoint);
  shard_writer_.Wait();
  CheckpointInfo info;
  info.counters.epoch = epochs_done();
  info.config_digest = ConfigDigest(config());
  info.virtual_ranks = plan().virtual_ranks();
  info.seed = config().seed;
  info.facts = ComputeFacts(options_.device);
  info.facts["steps_per_epoch"] = std::to_string(plan().steps_per_epoch());
  options_.enter(Section::kSnapshot);
  shard_writer_.Take(*state_, std::move(info), shard_place_, reason);
  last_taken_ = iteration();
  options_.checkpoint_taken(iteration());
}

void TrainingLoop::CheckpointHeld() {
  if (last_taken_ == iteration()) {
    const std::optional<v1::ShardWritten> newest = shard_writer_.newest();
    if (!newest.has_value()) return;  // it will be reported when it is written
    if (newest->error().empty() && newest->generation() == shard_place_.generation) {
      return options_.shard_written(*newest);
    }
  }
  TakeCheckpoint("held at this step");
  options_.enter(Section::kIdle);
}

void TrainingLoop::EvaluateIfDue() {
  const bool is_due =
      iteration() == setup_->target_step ||
      (iteration() > 0 && AtEndOfEpoch() && epochs_done() % config().eval.every_epochs == 0);
  if (!setup_->dataset.eval || shard_place_.shard_index != 0 || !is_due ||
      last_evaluation_ >= iteration() || options_.should_leave()) {
    return;
  }
  options_.enter(Section::kEvaluate);
  FaultPoint("evaluation", iteration());
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
                              .cancelled = options_.should_leave});
  }();
  if (options_.should_leave()) return;  // whoever is rank 0 next does it
  last_evaluation_ = iteration();
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
