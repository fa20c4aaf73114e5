#include "tools/finished_run.h"

#include <sys/stat.h>

#include <string>
#include <utility>

#include "checkpoint/catalogue.h"
#include "common/status_macros.h"
#include "coordinator/committed_checkpoint.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/recorder.h"
#include "coordinator/run_log_messages.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

// When the content of a file was last written, in nanoseconds; nullopt where there is none.
std::optional<int64_t> WrittenAt(const fs::path& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0) return std::nullopt;
  return facts.st_mtim.tv_sec * int64_t{1'000'000'000} + facts.st_mtim.tv_nsec;
}

v1::RunState StateOf(const Outcome& outcome) {
  v1::RunState state = v1::RUN_STATE_UNSPECIFIED;
  v1::RunState_Parse("RUN_STATE_" + outcome.state, &state);
  return state;
}

}  // namespace

absl::StatusOr<std::optional<v1::RunStatus>> ReadFinishedRun(const fs::path& run_dir) {
  ASSIGN_OR_RETURN(const std::optional<Outcome> outcome, ReadOutcome(run_dir));
  if (!outcome.has_value()) return std::nullopt;
  const std::optional<int64_t> ended_at = WrittenAt(run_dir / "outcome.json");
  const std::optional<int64_t> started_at = WrittenAt(run_dir / "coordinator.json");
  if (ended_at.has_value() && started_at.has_value() && *ended_at < *started_at) {
    return std::nullopt;
  }
  v1::RunStatus status;
  std::error_code no_error;
  status.set_run_dir(fs::absolute(run_dir, no_error).lexically_normal().string());
  status.set_state(StateOf(*outcome));
  status.set_reason(outcome->reason);
  status.set_step(outcome->step);
  status.set_exit_code(outcome->exit_code);
  status.set_state_digest(outcome->state_digest);
  if (const auto info = ReadCoordinatorFile(run_dir); info.ok()) status.set_run_id(info->run_id);
  if (const auto last = ReadLastMetrics(run_dir / "metrics.jsonl");
      last.ok() && last->has_value()) {
    *status.mutable_last_step() = ReportOf(**last);
  }
  // That storage fails says nothing about the end of the run.
  if (const auto checkpoints = ReadCheckpoints(run_dir);
      checkpoints.ok() && !checkpoints->checkpoints().empty()) {
    *status.mutable_last_checkpoint() = checkpoints->checkpoints(0);
  }
  return status;
}

absl::StatusOr<v1::ListCheckpointsResponse> ReadCheckpoints(const fs::path& run_dir) {
  v1::ListCheckpointsResponse response;
  std::error_code no_error;
  const fs::path root = fs::absolute(run_dir, no_error).lexically_normal() / "checkpoints";
  if (!fs::exists(root, no_error)) return response;
  ASSIGN_OR_RETURN(const Catalogue catalogue, ScanCheckpoints(root));
  for (const int64_t step : catalogue.committed) {
    auto checkpoint = DescribeCheckpoint(root, step);
    if (!checkpoint.ok()) continue;  // damaged, or just deleted
    *response.add_checkpoints() = *std::move(checkpoint);
  }
  return response;
}

}  // namespace albef
