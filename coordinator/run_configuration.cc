#include "coordinator/run_configuration.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <system_error>

#include "common/exit_code.h"
#include "common/file.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/run_setup.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRequestName = "the worker's configuration";

MonotonicDuration Seconds(double seconds) {
  return std::chrono::duration_cast<MonotonicDuration>(std::chrono::duration<double>(seconds));
}

std::string_view NameOf(StartAction action) {
  switch (action) {
    case StartAction::kNew:
      return "new";
    case StartAction::kImport:
      return "import";
    case StartAction::kContinue:
      return "continue";
    case StartAction::kAlreadyDone:
      break;
  }
  return "none";
}

v1::StartAction ActionOf(StartAction action) {
  switch (action) {
    case StartAction::kNew:
      return v1::START_ACTION_NEW;
    case StartAction::kImport:
      return v1::START_ACTION_IMPORT;
    case StartAction::kContinue:
    case StartAction::kAlreadyDone:
      break;
  }
  return v1::START_ACTION_CONTINUE;
}

absl::StatusOr<RunSetup> Prepare(const v1::RunRequest& request, const FirstStart& facts,
                                 const fs::path& run_dir) {
  ASSIGN_OR_RETURN(RunConfig config, ParseRunConfig(request.config_yaml(), kRequestName));
  return RunSetup::Prepare(
      {.config = std::move(config),
       .run_dir = run_dir,
       .device = request.device(),
       .resume = ParseResumeRequest(request.resume()),
       .is_directory_held = true,
       .num_workers = static_cast<int>(facts.num_workers),
       .num_workers_per_host = static_cast<int>(facts.num_workers_on_first_host)});
}

run_event::NotConfigured Refuse(const absl::Status& status) {
  return {.outcome = {.state = "FAILED",
                      .reason = std::string(status.message()),
                      .exit_code = static_cast<int>(ExitCodeFor(status))}};
}

}  // namespace

absl::StatusOr<RunConfig> ParseRequest(const v1::RunRequest& request) {
  return ParseRunConfig(request.config_yaml(), kRequestName,
                        {.overrides = {}, .check_files = false});
}

absl::StatusOr<RunConfig> ReadRunConfiguration(const fs::path& run_dir) {
  return LoadRunConfig(run_dir / "config.yaml", {.overrides = {}, .check_files = false});
}

void SetElasticOptions(const RunConfig& config, RunMachine::Options& options) {
  const RunConfig::Elastic& elastic = config.elastic;
  options.membership.min_workers = elastic.min_workers;
  options.membership.join_window = Seconds(elastic.join_window_s);
  options.hangs.hang_limit = Seconds(elastic.hang_limit_s);
  options.hangs.startup_limit = Seconds(elastic.startup_limit_s);
  options.heartbeat_limit = Seconds(elastic.heartbeat_limit_s);
  options.rejoin_wait = Seconds(elastic.rejoin_wait_s);
  options.reattach_window = Seconds(elastic.reattach_window_s);
}

std::variant<run_event::Configured, run_event::NotConfigured> PrepareRun(
    const v1::RunRequest& request, const FirstStart& facts, const fs::path& run_dir) {
  const auto begin = std::chrono::steady_clock::now();
  const absl::StatusOr<RunSetup> setup = Prepare(request, facts, run_dir);
  if (!setup.ok()) return Refuse(setup.status());
  if (setup->action == StartAction::kAlreadyDone) {
    Outcome outcome = setup->finished.value_or(Outcome{});
    outcome.reason =
        fmt::format("this run has ended with all {} steps done; nothing to do", setup->target_step);
    return run_event::NotConfigured{std::move(outcome)};
  }
  if (const absl::Status status =
          WriteFileAtomic(run_dir / "config.yaml", ResolvedYaml(setup->config));
      !status.ok()) {
    return Refuse(status);
  }
  // From here on the attempt before is history: who waits for an outcome waits for this one's.
  std::error_code error;
  fs::remove(run_dir / "outcome.json", error);
  const RunConfig& config = setup->config;
  spdlog::info(
      "run prepared run_dir={} action={} target_step={} epochs={} steps_per_epoch={} "
      "virtual_ranks={} batch_size={} pairs={} threads={} device={} duration_s={:.2f}",
      LogValue(run_dir.string()), NameOf(setup->action), setup->target_step,
      config.schedular.epochs, setup->plan.steps_per_epoch(), setup->plan.virtual_ranks(),
      config.batch_size, setup->plan.num_samples(), *config.threads_per_worker, request.device(),
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return run_event::Configured{{.virtual_ranks = *config.virtual_ranks,
                                .target_step = setup->target_step,
                                .action = ActionOf(setup->action),
                                .import_path = setup->resume.path.string()}};
}

absl::Status RequestCheck::Check(const v1::RunRequest& request) {
  if (request.device() != device_) {
    return absl::FailedPreconditionError(
        fmt::format("this run is on device \"{}\", the worker was started with --device \"{}\"",
                    device_, request.device()));
  }
  if (accepted_.contains(request.config_yaml())) return absl::OkStatus();
  ASSIGN_OR_RETURN(RunConfig config, ParseRequest(request));
  FillFromRun(config_, config);
  const std::string differences = DescribeDifferences(config_, config);
  if (!differences.empty()) {
    return absl::FailedPreconditionError(
        fmt::format("the worker's configuration would change the result of this run: {}; start it "
                    "with the configuration that the run has (RUN_DIR/config.yaml)",
                    differences));
  }
  constexpr size_t kMaxRemembered = 64;
  if (accepted_.size() < kMaxRemembered) accepted_.insert(request.config_yaml());
  return absl::OkStatus();
}

}  // namespace albef
