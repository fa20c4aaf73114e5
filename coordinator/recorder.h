// What a run tells the world in its directory: metrics.jsonl, events.jsonl, bad_samples.jsonl and
// outcome.json.
//
// One JSON object per line, appended by one write() each. A line torn by a crash is cut off when
// the files are opened again. Recording never stops a run: on a full disk lines are dropped and
// counted, and an event says how many once there is room again. Losses that are not finite are
// null.
#ifndef ALBEF_COORDINATOR_RECORDER_H_
#define ALBEF_COORDINATOR_RECORDER_H_

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "coordinator/run_log.h"

namespace albef {

// The end of a run, or of this attempt at it.
struct Outcome {
  std::string state = {};  // SUCCEEDED, FAILED, PREEMPTED or STOPPED
  std::string reason = {};
  int exit_code = 0;
  std::string state_digest = {};  // of the state after `step`; empty where no checkpoint holds it
  int64_t step = 0;

  bool operator==(const Outcome&) const = default;
};

// The only writer of these files in a run directory. Thread-safe.
class Recorder final : public RunLog {
 public:
  struct Options {
    std::filesystem::path run_dir = {};  // made if it does not exist
    std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
  };

  static absl::StatusOr<std::unique_ptr<Recorder>> Open(Options options);

  void RestartAfter(int64_t step, const std::string& reason) override;
  void RecordStep(const StepMetrics& metrics) override;
  void RecordEvent(const Event& event) override;
  void RecordBadSample(std::string json) override;

  // Replaces outcome.json. The one record whose loss is an error. `before`: how the attempt before
  // ended, where this one was refused and thus changes nothing about it: step and digest are still
  // those, state and reason say that the newest start was refused.
  absl::Status RecordOutcome(const Outcome& outcome, const std::optional<Outcome>& before = {});

  // The newest step in metrics.jsonl; nullopt while there is none.
  std::optional<int64_t> last_step() const;

  // Lines lost so far by this object.
  int64_t dropped_lines() const;

 private:
  // A file of lines, open for appending.
  class LineFile {
   public:
    static absl::StatusOr<LineFile> Open(const std::filesystem::path& path);

    // All of the line or nothing of it.
    absl::Status Append(std::string line);

   private:
    LineFile(std::filesystem::path path, FileDescriptor fd)
        : path_(std::move(path)), fd_(std::move(fd)) {}

    std::filesystem::path path_;
    FileDescriptor fd_;
    bool ends_torn_ = false;  // a part of a line could not be taken back
  };

  Recorder(Options options, LineFile metrics, LineFile events, LineFile bad_samples,
           std::optional<int64_t> last_step);

  bool AppendEvent(const Event& event);
  void AppendOrCount(const Event& event);
  void ReportDroppedLines();

  const Options options_;
  mutable std::mutex mutex_;  // guards what follows
  LineFile metrics_;
  LineFile events_;
  LineFile bad_samples_;
  std::optional<int64_t> last_step_;
  int64_t dropped_lines_ = 0;
  int64_t dropped_and_reported_ = 0;
};

// The steps of a metrics.jsonl in ascending order; of a step recorded more than once the last
// line. Losses that were not finite are NaN. Lines that are no such record (torn, damaged) are
// left out.
absl::StatusOr<std::vector<StepMetrics>> ReadMetrics(const std::filesystem::path& path);

// The newest of these lines, found from the end, so that the cost does not grow with the length of
// the run; nullopt while there is none.
absl::StatusOr<std::optional<StepMetrics>> ReadLastMetrics(const std::filesystem::path& path);

// RUN_DIR/outcome.json; nullopt where no attempt has ended yet.
absl::StatusOr<std::optional<Outcome>> ReadOutcome(const std::filesystem::path& run_dir);

// The same without attempts that were refused: the newest that trained.
absl::StatusOr<std::optional<Outcome>> ReadLastAttempt(const std::filesystem::path& run_dir);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RECORDER_H_
