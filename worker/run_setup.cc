#include "worker/run_setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "worker/compute.h"
#include "worker/run_options.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

// The resolved configuration of the run in `run_dir`; nothing for a new directory.
absl::StatusOr<std::optional<RunConfig>> ReadRunConfig(const fs::path& run_dir) {
  const fs::path path = run_dir / "config.yaml";
  if (!fs::exists(path)) return std::nullopt;
  ASSIGN_OR_RETURN(RunConfig config, LoadRunConfig(path, {.overrides = {}, .check_files = false}));
  return config;
}

absl::Status CheckSameRun(const RunConfig& run, const RunConfig& config, const fs::path& run_dir) {
  std::vector<std::string> differences;
  for (const ConfigDifference& difference : DifferencesThatChangeTheResult(run, config)) {
    differences.push_back(
        fmt::format("{} ({} → {})", difference.key, difference.before, difference.after));
  }
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{}: going on with another configuration would change the result: {}; restore these values, "
      "or start a new run in another --run-dir (init.checkpoint takes this one's weights over)",
      run_dir.string(), fmt::join(differences, ", ")));
}

// Fixes what the configuration left to the first start.
void FillFirstStart(RunConfig& config, const std::string& device) {
  if (!config.virtual_ranks) config.virtual_ranks = 1;
  if (!config.threads_per_worker) config.threads_per_worker = AvailableCores();
  if (!config.deterministic) config.deterministic = device == "cpu";
}

}  // namespace

absl::StatusOr<RunSetup> RunSetup::Prepare(TrainerOptions options) {
  RunConfig& config = options.config;
  ASSIGN_OR_RETURN(RunDirectoryLock lock, RunDirectoryLock::Acquire(options.run_dir));
  CheckpointStore::Options store_options;
  store_options.root = options.run_dir / "checkpoints";
  store_options.retention = {.keep = config.checkpoint.keep,
                             .keep_every = config.checkpoint.keep_every};
  store_options.num_threads = AvailableCores();
  ASSIGN_OR_RETURN(auto store, CheckpointStore::Open(std::move(store_options)));
  ASSIGN_OR_RETURN(const std::vector<int64_t> committed, store->CommittedSteps());
  if (!committed.empty()) {
    ASSIGN_OR_RETURN(const std::optional<RunConfig> run, ReadRunConfig(options.run_dir));
    if (run) {
      FillFromRun(*run, config);
      RETURN_IF_ERROR(CheckSameRun(*run, config, options.run_dir));
    }
  }
  FillFirstStart(config, options.device);
  ASSIGN_OR_RETURN(Dataset dataset, Dataset::Load(config));
  ASSIGN_OR_RETURN(EpochPlan plan, PlanEpochs(config, dataset.train->size()));
  const int64_t target_step = TargetStep(config, plan.steps_per_epoch());
  ASSIGN_OR_RETURN(std::optional<Outcome> finished, ReadOutcome(options.run_dir));
  ASSIGN_OR_RETURN(const StartAction action, DecideStart({.run_dir = options.run_dir,
                                                          .has_checkpoints = !committed.empty(),
                                                          .finished = std::move(finished),
                                                          .target_step = target_step},
                                                         options.resume));
  if (action == StartAction::kNew) RETURN_IF_ERROR(CheckNewRun(config));
  return RunSetup{.config = std::move(config),
                  .run_dir = std::move(options.run_dir),
                  .lock = std::move(lock),
                  .store = std::move(store),
                  .dataset = std::move(dataset),
                  .plan = std::move(plan),
                  .target_step = target_step,
                  .action = action,
                  .resume = std::move(options.resume)};
}

}  // namespace albef
