// What workers report and the coordinator itself has to say, written to the run directory by a
// thread of its own: slow storage delays records, never a heartbeat.
//
// A report that arrives twice (its worker did not hear that it was recorded) is recorded once, also
// across restarts of the coordinator: lines of events.jsonl and bad_samples.jsonl that come from
// workers carry "report": {"worker", "sequence"}, and the ends of these files are read when a new
// coordinator begins. Steps are told apart by their number.
#ifndef ALBEF_COORDINATOR_REPORT_LOG_H_
#define ALBEF_COORDINATOR_REPORT_LOG_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>

#include "absl/status/statusor.h"
#include "coordinator/recorder.h"
#include "coordinator/run_log_messages.h"
#include "proto/control.pb.h"

namespace albef {

// May be called from any thread; all but the destructor return at once.
class ReportLog {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    Recorder* recorder = nullptr;  // required; must outlive this
    // Everything up to `sequence` of this worker is recorded. On the thread of this object, as are
    // the others.
    std::function<void(const std::string& worker_id, int64_t sequence)> on_recorded = {};
    std::function<void(const StepMetrics&)> on_step = {};  // recorded for the first time
    std::function<void()> before_event = {};
  };

  static absl::StatusOr<std::unique_ptr<ReportLog>> Start(Options options);

  // Records what was handed in before.
  ~ReportLog();

  void Record(Event event);
  // `sequence` 0: a report that nobody waits for.
  void Record(std::string worker_id, int64_t sequence, v1::Report report);
  // Calls `act` once everything before is recorded.
  void Then(std::function<void()> act);

 private:
  struct FromWorker {
    std::string worker_id;
    int64_t sequence;
    v1::Report report;
  };
  using Item = std::variant<Event, FromWorker, std::function<void()>>;

  explicit ReportLog(Options options) : options_(std::move(options)) {}

  void Push(Item item);
  void Thread();
  void Write(Item& item);
  void WriteReport(const FromWorker& from);

  const Options options_;
  std::map<std::string, int64_t> recorded_;  // newest sequence by worker; of the thread

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;   // guarded by mutex_
  bool is_closing_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_REPORT_LOG_H_
