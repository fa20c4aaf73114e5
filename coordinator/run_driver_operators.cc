// RunDriver: what operators ask for.
#include <algorithm>
#include <utility>

#include "coordinator/run_driver.h"

namespace albef {
namespace {

constexpr MonotonicDuration kWatchInterval = std::chrono::milliseconds(200);

MonotonicTime Now() { return std::chrono::steady_clock::now(); }

absl::Status NotBegun() {
  return absl::FailedPreconditionError("the run has not begun: no worker has joined");
}

}  // namespace

void RunDriver::Cancel(Ticket ticket) {
  Post([this, ticket] {
    std::erase_if(waiters_, [&](const Waiter& waiter) { return waiter.ticket == ticket; });
    std::erase_if(watchers_, [&](const Watcher& watcher) { return watcher.ticket == ticket; });
  });
}

void RunDriver::GetStatus(std::function<void(v1::RunStatus)> answer) {
  Post([this, answer = std::move(answer)] {
    HandleEvents();
    answer(Status());
  });
}

void RunDriver::ListWorkers(std::function<void(v1::ListWorkersResponse)> answer) {
  Post([this, answer = std::move(answer)] {
    answer(machine_.has_value() ? machine_->Workers() : v1::ListWorkersResponse());
  });
}

void RunDriver::GetMetrics(std::function<void(RunMetrics)> answer) {
  Post([this, answer = std::move(answer)] {
    RunMetrics metrics{.status = Status(),
                       .counters = counters_,
                       .dropped_lines = recorder_->dropped_lines(),
                       .batch_size = batch_size_,
                       .device = device_};
    if (machine_.has_value()) {
      metrics.checkpoint_failures = machine_->num_failed_checkpoints();
      const v1::ListWorkersResponse workers = machine_->Workers();
      for (const v1::Worker& worker : workers.workers()) ++metrics.workers[worker.state()];
    }
    answer(std::move(metrics));
  });
}

RunDriver::Ticket RunDriver::WatchStatus(
    std::function<void(const v1::RunStatus&, bool is_last)> on_status) {
  const Ticket ticket = ++last_number_;
  Post([this, ticket, on_status = std::move(on_status)] {
    watchers_.push_back({.ticket = ticket, .on_status = on_status, .newest = {}});
    watched_at_ = {};
  });
  return ticket;
}

void RunDriver::ServeWatchers() {
  const MonotonicTime now = Now();
  if (watchers_.empty() || now - watched_at_ < kWatchInterval) return;
  watched_at_ = now;
  const v1::RunStatus status = Status();
  v1::RunStatus lasting = status;
  lasting.clear_state_seconds();
  const std::string text = lasting.SerializeAsString();
  const bool is_last = machine_.has_value() && machine_->HasEnded();
  for (Watcher& watcher : watchers_) {
    if (watcher.newest == text && !is_last) continue;
    watcher.newest = text;
    watcher.on_status(status, is_last);
  }
  if (is_last) watchers_.clear();
}

void RunDriver::Command(RunCommand command, std::string argument, StatusAnswer answer) {
  Post([this, command, argument = std::move(argument), answer = std::move(answer)] {
    HandleEvents();
    if (!machine_.has_value()) return answer(NotBegun());
    RunActions actions;
    const absl::Status status = machine_->Command(command, argument, Now(), &actions);
    Carry(std::move(actions));
    if (!status.ok()) return answer(status);
    if (command == RunCommand::kResume) ++num_resumes_;
    ledger_->Write(ledger_entry::Command{.command = command, .argument = argument},
                   [this, answer](const absl::Status& written) {
                     Post([this, answer, written] {
                       if (!written.ok()) return answer(written);
                       answer(Status());
                     });
                   });
  });
}

RunDriver::Ticket RunDriver::Pause(StatusAnswer answer) {
  const Ticket ticket = ++last_number_;
  Command(RunCommand::kPause, "", [this, ticket, answer](const absl::StatusOr<v1::RunStatus>& s) {
    if (!s.ok()) return answer(s.status());
    waiters_.push_back({ticket, [this, answer, resumes = num_resumes_] {
                          if (machine_->state() == v1::RUN_STATE_PAUSED) {
                            answer(Status());
                          } else if (machine_->HasEnded()) {
                            answer(absl::FailedPreconditionError(
                                "the run ended before it was held: " + Status().reason()));
                          } else if (num_resumes_ != resumes) {
                            answer(absl::AbortedError("the run was resumed before it was held"));
                          } else {
                            return false;
                          }
                          return true;
                        }});
  });
  return ticket;
}

RunDriver::Ticket RunDriver::TakeCheckpoint(
    std::function<void(absl::StatusOr<v1::Checkpoint>)> answer) {
  const Ticket ticket = ++last_number_;
  Post([this, ticket, answer = std::move(answer)] {
    HandleEvents();
    if (!machine_.has_value()) return answer(NotBegun());
    const int64_t num_failed = machine_->num_failed_checkpoints();
    RunActions actions;
    const absl::Status status = machine_->Command(RunCommand::kCheckpoint, "", Now(), &actions);
    Carry(std::move(actions));
    if (!status.ok()) return answer(status);
    const int64_t wanted_from = machine_->checkpoint_wanted_from();
    waiters_.push_back({ticket, [this, answer, num_failed, wanted_from] {
                          const std::optional<v1::Checkpoint>& newest = machine_->last_checkpoint();
                          if (newest.has_value() && newest->step() >= wanted_from) {
                            answer(*newest);
                          } else if (machine_->num_failed_checkpoints() > num_failed) {
                            answer(absl::UnavailableError(machine_->checkpoint_failure()));
                          } else if (machine_->HasEnded()) {
                            answer(absl::FailedPreconditionError(
                                "the run ended without another checkpoint: " + Status().reason()));
                          } else {
                            return false;
                          }
                          return true;
                        }});
  });
  return ticket;
}

void RunDriver::AnswerWaiters() {
  std::erase_if(waiters_, [](const Waiter& waiter) { return waiter.try_answer(); });
}

}  // namespace albef
