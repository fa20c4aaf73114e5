#include "coordinator/run_setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/resources.h"
#include "common/status_macros.h"

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
  const std::string differences = DescribeDifferences(run, config);
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{}: going on with another configuration would change the result: {}; restore these values, "
      "or start a new run in another --run-dir (init.checkpoint takes this one's weights over)",
      run_dir.string(), differences));
}

// Fixes what the configuration left to the first start.
void FillFirstStart(const RunRequest& request, RunConfig& config) {
  if (!config.virtual_ranks) config.virtual_ranks = request.num_workers;
  if (!config.threads_per_worker) {
    config.threads_per_worker = std::max(1, AvailableCores() / request.num_workers_per_host);
  }
  const bool is_cpu = request.device == "cpu";
  if (!config.deterministic) config.deterministic = is_cpu;
  if (!config.reduction) {
    config.reduction =
        is_cpu || *config.deterministic ? RunConfig::Reduction::kTree : RunConfig::Reduction::kNccl;
  }
}

// Of a run that began on GPUs. Where the user gives the key, its file and line are named earlier.
absl::Status CheckReduction(const RunRequest& request, const RunConfig& config) {
  if (request.device != "cpu" || config.reduction == RunConfig::Reduction::kTree) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(fmt::format(
      "{}: reduction: nccl adds gradients on GPUs, and this is --device cpu; go on with --device "
      "cuda, or start a new run in another --run-dir",
      (request.run_dir / "config.yaml").string()));
}

// Found out here, before a trainer starts.
absl::Status CheckImport(const fs::path& path) {
  std::error_code no_error;
  if (fs::exists(path, no_error)) return absl::OkStatus();
  return absl::NotFoundError(fmt::format(
      "--resume {}: no such file or folder; it takes auto, never, a checkpoint_XX.pth, a folder "
      "step-… or a run directory",
      path.string()));
}

// Iterations of the whole run: max_steps, or all epochs.
int64_t TargetStep(const RunConfig& config, int64_t steps_per_epoch) {
  const int64_t all_epochs = config.schedular.epochs * steps_per_epoch;
  return config.max_steps ? std::min(*config.max_steps, all_epochs) : all_epochs;
}

absl::StatusOr<std::unique_ptr<CheckpointStore>> OpenStore(const RunConfig& config,
                                                           const fs::path& run_dir) {
  CheckpointStore::Options options;
  options.root = run_dir / "checkpoints";
  options.retention = {.keep = config.checkpoint.keep, .keep_every = config.checkpoint.keep_every};
  options.num_threads = AvailableCores();
  return CheckpointStore::Open(std::move(options));
}

}  // namespace

std::string DescribeDifferences(const RunConfig& before, const RunConfig& after) {
  std::vector<std::string> differences;
  for (const ConfigDifference& difference : DifferencesThatChangeTheResult(before, after)) {
    differences.push_back(
        fmt::format("{} ({} → {})", difference.key, difference.before, difference.after));
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

absl::StatusOr<RunSetup> RunSetup::Prepare(RunRequest request) {
  RunConfig& config = request.config;
  std::optional<RunDirectoryLock> lock;
  if (!request.is_directory_held) {
    ASSIGN_OR_RETURN(lock, RunDirectoryLock::Acquire(request.run_dir));
  }
  ASSIGN_OR_RETURN(auto store, OpenStore(config, request.run_dir));
  ASSIGN_OR_RETURN(const std::vector<int64_t> committed, store->CommittedSteps());
  if (!committed.empty()) {
    ASSIGN_OR_RETURN(const std::optional<RunConfig> run, ReadRunConfig(request.run_dir));
    if (run) {
      FillFromRun(*run, config);
      RETURN_IF_ERROR(CheckSameRun(*run, config, request.run_dir));
    }
  }
  FillFirstStart(request, config);
  RETURN_IF_ERROR(CheckReduction(request, config));
  ASSIGN_OR_RETURN(Dataset dataset, Dataset::Load(config, request.run_dir / "index"));
  ASSIGN_OR_RETURN(EpochPlan plan, PlanEpochs(config, dataset.train->size()));
  const int64_t target_step = TargetStep(config, plan.steps_per_epoch());
  ASSIGN_OR_RETURN(const std::optional<Outcome> finished, ReadLastAttempt(request.run_dir));
  ASSIGN_OR_RETURN(const StartAction action, DecideStart({.run_dir = request.run_dir,
                                                          .has_checkpoints = !committed.empty(),
                                                          .finished = finished,
                                                          .target_step = target_step},
                                                         request.resume));
  if (action == StartAction::kNew) RETURN_IF_ERROR(CheckNewRun(config));
  if (action == StartAction::kImport) RETURN_IF_ERROR(CheckImport(request.resume.path));
  return RunSetup{.config = std::move(config),
                  .run_dir = std::move(request.run_dir),
                  .lock = std::move(lock),
                  .store = std::move(store),
                  .dataset = std::move(dataset),
                  .plan = plan,
                  .target_step = target_step,
                  .action = action,
                  .resume = std::move(request.resume),
                  .finished = finished};
}

absl::StatusOr<RunSetup> RunSetup::Join(fs::path run_dir, StartAction action,
                                        ResumeRequest resume) {
  ASSIGN_OR_RETURN(RunConfig config, LoadRunConfig(run_dir / "config.yaml"));
  ASSIGN_OR_RETURN(auto store, OpenStore(config, run_dir));
  ASSIGN_OR_RETURN(Dataset dataset, Dataset::Load(config, run_dir / "index"));
  ASSIGN_OR_RETURN(EpochPlan plan, PlanEpochs(config, dataset.train->size()));
  const int64_t target_step = TargetStep(config, plan.steps_per_epoch());
  return RunSetup{.config = std::move(config),
                  .run_dir = std::move(run_dir),
                  .lock = std::nullopt,
                  .store = std::move(store),
                  .dataset = std::move(dataset),
                  .plan = plan,
                  .target_step = target_step,
                  .action = action,
                  .resume = std::move(resume),
                  .finished = std::nullopt};
}

absl::StatusOr<StartAction> RunSetup::NextAction() const {
  ASSIGN_OR_RETURN(const std::vector<int64_t> committed, store->CommittedSteps());
  return committed.empty() ? action : StartAction::kContinue;
}

}  // namespace albef
