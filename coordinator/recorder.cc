#include "coordinator/recorder.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Every field of a line of metrics.jsonl, for writing and for reading.
template <typename Metrics, typename Visitor>
void VisitMetrics(Metrics& metrics, Visitor&& visit) {
  visit("step", metrics.step);
  visit("epoch", metrics.epoch);
  visit("loss_mlm", metrics.loss_mlm);
  visit("loss_itc", metrics.loss_itc);
  visit("loss_itm", metrics.loss_itm);
  visit("loss", metrics.loss);
  visit("lr", metrics.lr);
  visit("temp", metrics.temp);
  visit("alpha", metrics.alpha);
  visit("samples_per_second", metrics.samples_per_second);
  visit("data_wait_ratio", metrics.data_wait_ratio);
  visit("workers", metrics.workers);
  visit("generation", metrics.generation);
  visit("skipped", metrics.skipped);
}

// Numbers that are not finite become null, bytes that are no UTF-8 the replacement character.
std::string ToLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json OutcomeToJson(const Outcome& outcome) {
  return {{"state", outcome.state},
          {"reason", outcome.reason},
          {"exit_code", outcome.exit_code},
          {"state_digest", outcome.state_digest},
          {"step", outcome.step}};
}

std::optional<Outcome> ParseOutcome(const Json& json) {
  const auto is = [&](const char* key, auto test) {
    return json.is_object() && json.contains(key) && (json[key].*test)();
  };
  if (!is("state", &Json::is_string) || !is("reason", &Json::is_string) ||
      !is("exit_code", &Json::is_number_integer) || !is("state_digest", &Json::is_string) ||
      !is("step", &Json::is_number_integer)) {
    return std::nullopt;
  }
  return Outcome{.state = json["state"],
                 .reason = json["reason"],
                 .exit_code = json["exit_code"],
                 .state_digest = json["state_digest"],
                 .step = json["step"]};
}

// outcome.json as it is; nullopt where there is none.
absl::StatusOr<std::optional<Json>> ReadOutcomeFile(const fs::path& run_dir) {
  const fs::path path = run_dir / "outcome.json";
  const auto content = ReadFile(path);
  if (absl::IsNotFound(content.status())) return std::nullopt;
  RETURN_IF_ERROR(content.status());
  Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  if (!ParseOutcome(json).has_value()) {
    return absl::DataLossError(fmt::format(
        "{}: not the outcome of a run; remove the file to start the run again", path.string()));
  }
  return json;
}

std::optional<StepMetrics> ParseMetrics(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  StepMetrics metrics;
  bool is_complete = true;
  VisitMetrics(metrics, [&]<typename T>(const char* key, T& field) {
    const auto value = json.find(key);
    if (value == json.end()) {
      is_complete = false;
    } else if (std::is_floating_point_v<T> && value->is_null()) {
      field = std::numeric_limits<T>::quiet_NaN();
    } else if (std::is_floating_point_v<T> ? value->is_number() : value->is_number_integer()) {
      field = value->template get<T>();
    } else {
      is_complete = false;
    }
  });
  return is_complete ? std::optional(metrics) : std::nullopt;
}

// Cuts off what stands behind the last newline.
absl::Status RemoveTornLine(int fd, const fs::path& path) {
  size_t kept = 0;
  {
    ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
    const size_t newline = file.text().rfind('\n');
    kept = newline == std::string_view::npos ? 0 : newline + 1;
    if (kept == file.text().size()) return absl::OkStatus();
    spdlog::warn("torn line removed path={} bytes={}", LogValue(path.string()),
                 file.text().size() - kept);
  }
  if (::ftruncate(fd, static_cast<off_t>(kept)) != 0) return ErrnoStatus(errno, "truncate", path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Recorder::LineFile> Recorder::LineFile::Open(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  RETURN_IF_ERROR(RemoveTornLine(fd.get(), path));
  return LineFile(path, std::move(fd));
}

absl::Status Recorder::LineFile::Append(std::string line) {
  struct stat before;
  if (::fstat(fd_.get(), &before) != 0) return ErrnoStatus(errno, "stat", path_);
  if (ends_torn_) line = fmt::format("\n{}", line);
  ssize_t written = 0;
  do {
    written = ::write(fd_.get(), line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) {
    ends_torn_ = false;
    return absl::OkStatus();
  }
  // A short write to a regular file means that the room ran out within the line.
  const int error = written < 0 ? errno : ENOSPC;
  if (written > 0 && ::ftruncate(fd_.get(), before.st_size) != 0) ends_torn_ = true;
  return ErrnoStatus(error, "append", path_);
}

absl::StatusOr<std::unique_ptr<Recorder>> Recorder::Open(Options options) {
  RETURN_IF_ERROR(CreateDirectories(options.run_dir));
  const fs::path metrics_path = options.run_dir / "metrics.jsonl";
  ASSIGN_OR_RETURN(LineFile metrics, LineFile::Open(metrics_path));
  ASSIGN_OR_RETURN(LineFile events, LineFile::Open(options.run_dir / "events.jsonl"));
  ASSIGN_OR_RETURN(LineFile bad_samples, LineFile::Open(options.run_dir / "bad_samples.jsonl"));
  ASSIGN_OR_RETURN(const std::optional<StepMetrics> last, ReadLastMetrics(metrics_path));
  return std::unique_ptr<Recorder>(new Recorder(std::move(options), std::move(metrics),
                                                std::move(events), std::move(bad_samples),
                                                last ? std::optional(last->step) : std::nullopt));
}

Recorder::Recorder(Options options, LineFile metrics, LineFile events, LineFile bad_samples,
                   std::optional<int64_t> last_step)
    : options_(std::move(options)),
      metrics_(std::move(metrics)),
      events_(std::move(events)),
      bad_samples_(std::move(bad_samples)),
      last_step_(last_step) {}

void Recorder::RestartAfter(int64_t step, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!last_step_.has_value() || *last_step_ <= step) return;
  AppendOrCount({.kind = "steps_repeated",
                 .reason = reason,
                 .facts = {{"from", step + 1}, {"to", *last_step_ + 1}}});
  last_step_ = step;
}

void Recorder::RecordStep(const StepMetrics& metrics) {
  Json json;
  VisitMetrics(metrics, [&](const char* key, const auto& field) { json[key] = field; });
  const std::lock_guard lock(mutex_);
  if (last_step_.has_value() && metrics.step <= *last_step_) return;
  ReportDroppedLines();
  if (metrics_.Append(ToLine(json)).ok()) {
    last_step_ = metrics.step;
  } else {
    ++dropped_lines_;
  }
}

void Recorder::RecordEvent(const Event& event) {
  const std::lock_guard lock(mutex_);
  AppendOrCount(event);
}

void Recorder::RecordBadSample(std::string json) {
  const std::lock_guard lock(mutex_);
  ReportDroppedLines();
  if (!bad_samples_.Append(std::move(json) + "\n").ok()) ++dropped_lines_;
}

absl::Status Recorder::RecordOutcome(const Outcome& outcome, const std::optional<Outcome>& before) {
  Json json = OutcomeToJson(outcome);
  if (before.has_value()) json["before"] = OutcomeToJson(*before);
  const std::lock_guard lock(mutex_);
  ReportDroppedLines();
  return WriteFileAtomic(options_.run_dir / "outcome.json", ToLine(json));
}

std::optional<int64_t> Recorder::last_step() const {
  const std::lock_guard lock(mutex_);
  return last_step_;
}

int64_t Recorder::dropped_lines() const {
  const std::lock_guard lock(mutex_);
  return dropped_lines_;
}

bool Recorder::AppendEvent(const Event& event) {
  const auto now = std::chrono::floor<std::chrono::milliseconds>(options_.now());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(now);
  Json json = {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                                    fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)),
                                    (now - seconds).count())},
               {"kind", event.kind},
               {"reason", event.reason}};
  for (const auto& [key, value] : event.facts) {
    Json& member = json[Json::json_pointer("/" + absl::StrReplaceAll(key, {{".", "/"}}))];
    std::visit([&member](const auto& fact) { member = fact; }, value);
  }
  return events_.Append(ToLine(json)).ok();
}

void Recorder::AppendOrCount(const Event& event) {
  ReportDroppedLines();
  if (!AppendEvent(event)) ++dropped_lines_;
}

void Recorder::ReportDroppedLines() {
  const int64_t unreported = dropped_lines_ - dropped_and_reported_;
  if (unreported > 0 && AppendEvent({.kind = "lines_dropped",
                                     .reason = "could not be written, for example on a full disk",
                                     .facts = {{"lines", unreported}}})) {
    dropped_and_reported_ = dropped_lines_;
  }
}

absl::StatusOr<std::optional<StepMetrics>> ReadLastMetrics(const fs::path& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  std::string_view text = file.text();
  while (!text.empty()) {
    text.remove_suffix(1);  // its newline, or the end of a torn line
    const size_t newline = text.rfind('\n');
    const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    if (auto metrics = ParseMetrics(text.substr(start))) return metrics;
    text = text.substr(0, start);
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<StepMetrics>> ReadMetrics(const fs::path& path) {
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
  std::map<int64_t, StepMetrics> steps;
  for (std::string_view text = content; !text.empty();) {
    const size_t end = text.find('\n');
    if (const auto metrics = ParseMetrics(text.substr(0, end))) steps[metrics->step] = *metrics;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  std::vector<StepMetrics> result;
  for (const auto& [step, metrics] : steps) result.push_back(metrics);
  return result;
}

absl::StatusOr<std::optional<Outcome>> ReadOutcome(const fs::path& run_dir) {
  ASSIGN_OR_RETURN(const std::optional<Json> json, ReadOutcomeFile(run_dir));
  return json.has_value() ? ParseOutcome(*json) : std::nullopt;
}

absl::StatusOr<std::optional<Outcome>> ReadLastAttempt(const fs::path& run_dir) {
  ASSIGN_OR_RETURN(const std::optional<Json> json, ReadOutcomeFile(run_dir));
  if (!json.has_value()) return std::nullopt;
  return json->contains("before") ? ParseOutcome((*json)["before"]) : ParseOutcome(*json);
}

}  // namespace albef
