#include "coordinator/report_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

// A report is acknowledged right after it is recorded: those that may come again are at the end.
constexpr off_t kTailBytes = 1 << 20;

absl::StatusOr<std::string> ReadTail(const fs::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return std::string();
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  const off_t begin = std::max<off_t>(0, info.st_size - kTailBytes);
  std::string tail(static_cast<size_t>(info.st_size - begin), '\0');
  size_t done = 0;
  while (done < tail.size()) {
    const ssize_t got =
        ::pread(fd.get(), tail.data() + done, tail.size() - done, begin + static_cast<off_t>(done));
    if (got < 0 && errno != EINTR) return ErrnoStatus(errno, "read", path);
    if (got == 0) break;
    if (got > 0) done += static_cast<size_t>(got);
  }
  tail.resize(done);
  return tail;
}

absl::Status FindRecorded(const fs::path& path, std::map<std::string, int64_t>& recorded) {
  ASSIGN_OR_RETURN(const std::string tail, ReadTail(path));
  for (std::string_view text = tail; !text.empty();) {
    const size_t end = std::min(text.find('\n'), text.size());
    const Json line = Json::parse(text.substr(0, end), nullptr, /*allow_exceptions=*/false);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.is_object() || !line.contains("report")) continue;
    const Json& report = line["report"];
    if (!report.is_object() || !report.contains("worker") || !report["worker"].is_string() ||
        !report.contains("sequence") || !report["sequence"].is_number_integer()) {
      continue;
    }
    int64_t& newest = recorded[report["worker"].get<std::string>()];
    newest = std::max(newest, report["sequence"].get<int64_t>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReportLog>> ReportLog::Start(Options options) {
  std::unique_ptr<ReportLog> log(new ReportLog(std::move(options)));
  for (const char* file : {"events.jsonl", "bad_samples.jsonl"}) {
    RETURN_IF_ERROR(FindRecorded(log->options_.run_dir / file, log->recorded_));
  }
  log->thread_ = std::thread([raw = log.get()] { raw->Thread(); });
  return log;
}

ReportLog::~ReportLog() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void ReportLog::Record(Event event) { Push(std::move(event)); }

void ReportLog::Record(std::string worker_id, int64_t sequence, v1::Report report) {
  Push(FromWorker{std::move(worker_id), sequence, std::move(report)});
}

void ReportLog::Then(std::function<void()> act) { Push(std::move(act)); }

void ReportLog::Push(Item item) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(item));
  }
  wake_.notify_one();
}

void ReportLog::Thread() {
  std::deque<Item> batch;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return is_closing_ || !queue_.empty(); });
      batch.swap(queue_);
    }
    if (batch.empty()) return;
    for (Item& item : batch) Write(item);
    batch.clear();
  }
}

void ReportLog::Write(Item& item) {
  std::visit(Overloaded{
                 [&](const Event& event) {
                   if (options_.before_event) options_.before_event();
                   options_.recorder->RecordEvent(event);
                 },
                 [&](const FromWorker& from) {
                   int64_t& newest = recorded_[from.worker_id];
                   if (from.sequence == 0 || from.sequence > newest) {
                     WriteReport(from);
                     newest = std::max(newest, from.sequence);
                   }
                   if (from.sequence > 0 && options_.on_recorded) {
                     options_.on_recorded(from.worker_id, from.sequence);
                   }
                 },
                 [](const std::function<void()>& act) { act(); },
             },
             item);
}

void ReportLog::WriteReport(const FromWorker& from) {
  Recorder& recorder = *options_.recorder;
  switch (from.report.kind_case()) {
    case v1::Report::kStep: {
      const StepMetrics metrics = MetricsOf(from.report.step());
      const bool is_new = metrics.step > recorder.last_step().value_or(-1);
      recorder.RecordStep(metrics);
      if (is_new && options_.on_step) options_.on_step(metrics);
      return;
    }
    case v1::Report::kEvent: {
      Event event = EventOf(from.report.event());
      event.facts.emplace_back("report.worker", from.worker_id);
      event.facts.emplace_back("report.sequence", from.sequence);
      if (options_.before_event) options_.before_event();
      return recorder.RecordEvent(event);
    }
    case v1::Report::kBadSampleJson: {
      Json sample = Json::parse(from.report.bad_sample_json(), nullptr, /*allow_exceptions=*/false);
      if (!sample.is_object()) sample = Json::object({{"text", from.report.bad_sample_json()}});
      sample["report"] = {{"worker", from.worker_id}, {"sequence", from.sequence}};
      return recorder.RecordBadSample(sample.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    case v1::Report::kRestart:
      return recorder.RestartAfter(from.report.restart().step(), from.report.restart().reason());
    case v1::Report::KIND_NOT_SET:
      return;
  }
}

}  // namespace albef
