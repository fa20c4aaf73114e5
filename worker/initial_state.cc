#include "worker/initial_state.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "common/log.h"
#include "common/status_macros.h"
#include "model/initialization.h"
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

absl::Status RestoreNewest(const RunSetup& setup, Recorder& recorder, TrainState& state,
                           const std::map<std::string, std::string>& facts) {
  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(CheckpointStore::LoadResult result, setup.store->LoadNewestValid());
  for (const std::string& message : result.quarantined) {
    spdlog::warn("{}", message);
    recorder.RecordEvent({.kind = "checkpoint_quarantined", .reason = message});
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
  recorder.RestartAfter(step, "resumed from the newest valid checkpoint");
  recorder.RecordEvent(
      {.kind = "resumed",
       .reason = result.checkpoint->directory().filename().string(),
       .facts = {{"step", step},
                 {"state_digest", ToHex(manifest.state_digest)},
                 {"duration_s", std::chrono::duration<double>(Clock::now() - start).count()}}});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainState>> MakeInitialState(const RunSetup& setup,
                                                             Recorder& recorder,
                                                             torch::Device device) {
  Albef model(ModelOptions(setup.config));
  RETURN_IF_ERROR(setup.store->CleanUp());
  if (setup.action == StartAction::kNew) InitializeRandomly(*model, setup.config.seed);
  model->train();
  auto state = std::make_unique<TrainState>(model, StateOptions(setup.config, device));
  if (setup.action == StartAction::kContinue) {
    RETURN_IF_ERROR(RestoreNewest(setup, recorder, *state, ComputeFacts(device)));
  } else {
    recorder.RestartAfter(state->counters().iteration, "new run");
    recorder.RecordEvent({.kind = "started", .facts = {{"step", state->counters().iteration}}});
  }
  return state;
}

}  // namespace albef
