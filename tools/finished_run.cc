#include "tools/finished_run.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "checkpoint/catalogue.h"
#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/manifest.h"
#include "common/status_macros.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/recorder.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

// When the content of a file was last written, in nanoseconds; nullopt where there is none.
std::optional<int64_t> WrittenAt(const fs::path& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0) return std::nullopt;
  return facts.st_mtim.tv_sec * int64_t{1'000'000'000} + facts.st_mtim.tv_nsec;
}

// The newest whole line of metrics.jsonl, without reading what came long before it.
std::optional<v1::StepReport> ReadLastStep(const fs::path& path) {
  constexpr std::streamoff kTailBytes = 16384;
  std::ifstream file(path, std::ios::binary);
  if (!file.seekg(0, std::ios::end)) return std::nullopt;
  const std::streamoff size = file.tellg();
  const std::streamoff begin = std::max<std::streamoff>(0, size - kTailBytes);
  std::string tail(static_cast<size_t>(size - begin), '\0');
  if (!file.seekg(begin) || !file.read(tail.data(), size - begin)) return std::nullopt;
  while (!tail.empty()) {
    tail.pop_back();                                 // its newline, or the end of a torn line
    const size_t line_begin = tail.rfind('\n') + 1;  // 0 where there is none
    const auto json = nlohmann::json::parse(tail.substr(line_begin), nullptr, false);
    if (json.is_object() && json.contains("step")) {
      const auto number = [&](const char* key) {
        const auto found = json.find(key);
        return found != json.end() && found->is_number() ? found->get<double>() : std::nan("");
      };
      const auto count = [&](const char* key) {
        const double value = number(key);
        return std::abs(value) < 1e15 ? static_cast<int64_t>(value) : 0;
      };
      v1::StepReport step;
      step.set_step(count("step"));
      step.set_epoch(count("epoch"));
      step.set_loss_mlm(number("loss_mlm"));
      step.set_loss_itc(number("loss_itc"));
      step.set_loss_itm(number("loss_itm"));
      step.set_lr(number("lr"));
      step.set_temp(number("temp"));
      step.set_alpha(number("alpha"));
      step.set_samples_per_second(number("samples_per_second"));
      step.set_data_wait_ratio(number("data_wait_ratio"));
      step.set_workers(count("workers"));
      step.set_generation(count("generation"));
      step.set_skipped(count("skipped"));
      return step;
    }
    tail.resize(line_begin);
  }
  return std::nullopt;
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
  if (const auto step = ReadLastStep(run_dir / "metrics.jsonl"); step.has_value()) {
    *status.mutable_last_step() = *step;
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
    const fs::path folder = root / StepName(step);
    const absl::StatusOr<Manifest> manifest = ReadManifest(folder);
    if (!manifest.ok()) continue;  // damaged, or just deleted
    v1::Checkpoint& checkpoint = *response.add_checkpoints();
    checkpoint.set_step(step);
    checkpoint.set_path(folder.string());
    checkpoint.set_state_digest(ToHex(manifest->state_digest));
    int64_t size_bytes = 0;
    for (const ManifestFile& file : manifest->files) {
      size_bytes += static_cast<int64_t>(file.num_bytes);
    }
    checkpoint.set_size_bytes(size_bytes);
    // The manifest is written last.
    checkpoint.set_committed_unix_seconds(
        static_cast<double>(WrittenAt(folder / kManifestName).value_or(0)) / 1e9);
  }
  return response;
}

}  // namespace albef
