#include "worker/supervisor_link.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>

#include "common/format_absl.h"
#include "coordinator/run_log_messages.h"

namespace albef {
namespace {

constexpr std::chrono::milliseconds kActivityInterval{200};

v1::Activity::Section SectionOf(Section section) {
  switch (section) {
    case Section::kSetup:
      return v1::Activity::SECTION_SETUP;
    case Section::kIdle:
      return v1::Activity::SECTION_IDLE;
    case Section::kSync:
      return v1::Activity::SECTION_SYNC;
    case Section::kData:
      return v1::Activity::SECTION_DATA;
    case Section::kCompute:
      return v1::Activity::SECTION_COMPUTE;
    case Section::kExchange:
      return v1::Activity::SECTION_EXCHANGE;
    case Section::kSnapshot:
      return v1::Activity::SECTION_SNAPSHOT;
    case Section::kCheckpoint:
      return v1::Activity::SECTION_CHECKPOINT;
    case Section::kEvaluate:
      return v1::Activity::SECTION_EVALUATE;
  }
  return v1::Activity::SECTION_UNSPECIFIED;
}

}  // namespace

SupervisorLink::SupervisorLink(FileDescriptor socket, const ActivityTracker* activity,
                               LeaveCallback leave)
    : socket_(std::move(socket), "supervisor"),
      activity_(activity),
      leave_(std::move(leave)),
      reader_([this] { Read(); }),
      reporter_([this] { ReportActivity(); }) {}

SupervisorLink::~SupervisorLink() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  stopping_.notify_all();
  reporter_.join();
  socket_.Shutdown();
  reader_.join();
}

void SupervisorLink::Send(const v1::TrainerMessage& message) {
  if (const absl::Status status = socket_.Send(message); !status.ok()) {
    spdlog::debug("message dropped: {}", status.message());
    inbox_.Close();
  }
}

void SupervisorLink::Read() {
  v1::Assign assigned;
  while (true) {
    v1::ControlMessage message;
    const absl::StatusOr<ControlSocket::Received> received = socket_.Receive(message);
    if (!received.ok() || *received != ControlSocket::Received::kMessage) break;
    if (!inbox_.Put(message)) continue;
    if (message.has_assign()) assigned = message.assign();
    if (message.has_prepare()) leave_(assigned);
    if (message.has_end()) break;
  }
  inbox_.Close();
  leave_(assigned);
}

void SupervisorLink::ReportActivity() {
  std::unique_lock lock(mutex_);
  while (!is_stopping_) {
    lock.unlock();
    const ActivityTracker::Snapshot now = activity_->Now();
    v1::TrainerMessage message;
    v1::Activity& activity = *message.mutable_activity();
    activity.set_section(SectionOf(now.section));
    activity.set_section_seconds(now.section_seconds);
    activity.set_section_limit_seconds(now.section_limit_seconds);
    activity.set_generation(now.generation);
    activity.set_iteration(now.iteration);
    Send(message);
    lock.lock();
    stopping_.wait_for(lock, kActivityInterval, [this] { return is_stopping_; });
  }
}

void SupervisorLink::RestartAfter(int64_t step, const std::string& reason) {
  v1::TrainerMessage message;
  message.mutable_report()->mutable_restart()->set_step(step);
  message.mutable_report()->mutable_restart()->set_reason(reason);
  Send(message);
}

void SupervisorLink::RecordStep(const StepMetrics& metrics) {
  v1::TrainerMessage message;
  *message.mutable_report()->mutable_step() = ReportOf(metrics);
  Send(message);
}

void SupervisorLink::RecordEvent(const Event& event) {
  v1::TrainerMessage message;
  *message.mutable_report()->mutable_event() = ReportOf(event);
  Send(message);
}

void SupervisorLink::RecordBadSample(std::string json) {
  v1::TrainerMessage message;
  message.mutable_report()->set_bad_sample_json(std::move(json));
  Send(message);
}

}  // namespace albef
