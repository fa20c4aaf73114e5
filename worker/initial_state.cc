#include "worker/initial_state.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/catalogue.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "model/official_checkpoint.h"
#include "model/pretrained.h"
#include "worker/checkpointing.h"
#include "worker/compute.h"
#include "worker/run_options.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// Says where the same command would now give other bits than it did.
void WarnOfOtherFacts(const std::map<std::string, std::string>& before,
                      const std::map<std::string, std::string>& now) {
  for (const auto& [key, value] : now) {
    const auto found = before.find(key);
    if (found != before.end() && found->second != value) {
      spdlog::warn(
          "{} was {} when the checkpoint was written and is {} now: the result may differ in "
          "its last bits",
          key, LogValue(found->second), LogValue(value));
    }
  }
}

absl::Status RestoreNewest(const RunSetup& setup, RunLog& log, TrainState& state,
                           const std::map<std::string, std::string>& facts) {
  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(CheckpointStore::LoadResult result, setup.store->LoadNewestValid());
  for (const std::string& message : result.quarantined) {
    log.RecordEvent({.kind = "checkpoint_quarantined", .reason = message});
  }
  if (!result.checkpoint) {
    return absl::DataLossError(fmt::format(
        "{}: no checkpoint is intact; look at the .damaged-* folders, or remove {} to start anew",
        setup.store->root().string(), setup.run_dir.string()));
  }
  RETURN_IF_ERROR(RestoreState(*result.checkpoint, state));
  const Manifest& manifest = result.checkpoint->manifest();
  WarnOfOtherFacts(manifest.info.facts, facts);
  const int64_t step = state.counters().iteration;
  log.RestartAfter(step, "resumed from the newest valid checkpoint");
  log.RecordEvent(
      {.kind = "resumed",
       .reason = result.checkpoint->directory().filename().string(),
       .facts = {{"step", step},
                 {"state_digest", ToHex(manifest.state_digest)},
                 {"duration_s", std::chrono::duration<double>(Clock::now() - start).count()}}});
  return absl::OkStatus();
}

absl::Status InitializeNew(const RunSetup& setup, RunLog& log, AlbefImpl& model) {
  ASSIGN_OR_RETURN(const std::vector<InitializationStep> steps,
                   InitializeModel(model, setup.config.init, setup.config.seed));
  for (const InitializationStep& step : steps) {
    spdlog::info("initialised what={} path={} {}", step.what, LogValue(step.path.string()),
                 step.report.Summary());
    log.RecordEvent({.kind = "initialised",
                     .reason = step.report.Summary(),
                     .facts = {{"what", step.what}, {"path", step.path.string()}}});
  }
  return absl::OkStatus();
}

// `--resume PATH`: the authors' checkpoint_XX.pth, which goes on at its next epoch, or a checkpoint
// folder of ours (of a run directory, its newest).
absl::Status Import(const RunSetup& setup, RunLog& log, TrainState& state) {
  const std::filesystem::path& path = setup.resume.path;
  if (std::filesystem::is_directory(path)) {
    ASSIGN_OR_RETURN(const std::filesystem::path folder, FindCheckpoint(path));
    ASSIGN_OR_RETURN(const LoadedCheckpoint checkpoint, LoadedCheckpoint::Open(folder));
    RETURN_IF_ERROR(RestoreState(checkpoint, state));
  } else {
    ASSIGN_OR_RETURN(
        const OfficialProgress progress,
        ImportOfficialCheckpoint(path, state, {.steps_per_epoch = setup.plan.steps_per_epoch()}));
    spdlog::info("imported path={} epoch={} updates={} unknown_classes={}", LogValue(path.string()),
                 progress.epoch, progress.updates, progress.unknown_classes.size());
  }
  const int64_t step = state.counters().iteration;
  log.RestartAfter(step, "new run from " + path.string());
  log.RecordEvent({.kind = "imported", .reason = path.string(), .facts = {{"step", step}}});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainState>> MakeInitialState(const RunSetup& setup, RunLog& log,
                                                             torch::Device device) {
  Albef model(ModelOptions(setup.config));
  if (setup.action == StartAction::kNew) {
    // Lines of an attempt that was lost before its first checkpoint.
    log.RestartAfter(0, "new run");
    RETURN_IF_ERROR(InitializeNew(setup, log, *model));
  }
  model->train();
  auto state = std::make_unique<TrainState>(model, StateOptions(setup.config, device));
  if (setup.action == StartAction::kContinue) {
    RETURN_IF_ERROR(RestoreNewest(setup, log, *state, ComputeFacts(device)));
  } else if (setup.action == StartAction::kImport) {
    RETURN_IF_ERROR(Import(setup, log, *state));
  }
  return state;
}

std::unique_ptr<TrainState> MakeBlankState(const RunSetup& setup, torch::Device device) {
  Albef model(ModelOptions(setup.config));
  model->train();
  return std::make_unique<TrainState>(model, StateOptions(setup.config, device));
}

}  // namespace albef
