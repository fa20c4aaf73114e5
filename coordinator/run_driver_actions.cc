// RunDriver: carrying out what the state machine decides.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/log.h"
#include "coordinator/run_driver.h"

namespace albef {

void RunDriver::HandleEvents() {
  if (machine_.has_value() && !events_.empty()) {
    Carry(machine_->HandleAll(events_, std::chrono::steady_clock::now()));
  }
  events_.clear();
}

void RunDriver::Carry(RunActions actions) {
  std::move(actions.begin(), actions.end(), std::back_inserter(actions_));
  CarryWaiting();
}

void RunDriver::CarryWaiting() {
  while (!actions_.empty() && num_holds_ == 0 && !is_stale_) {
    RunAction action = std::move(actions_.front());
    actions_.pop_front();
    std::visit([this](auto& concrete) { CarryOut(concrete); }, action);
  }
}

std::function<void()> RunDriver::HoldActions() {
  ++num_holds_;
  return [this] {
    Post([this] {
      num_holds_ = std::max(0, num_holds_ - 1);
      CarryWaiting();
    });
  };
}

void RunDriver::CarryOut(run_action::Send& action) {
  const auto session = sessions_.find(action.session);
  if (session == sessions_.end()) return;
  const v1::CoordinatorMessage& message = action.message;
  if (message.has_to_trainer() && message.to_trainer().message().has_end()) {
    told_the_end_.insert(session->second.worker_id);
  }
  session->second.stream->Send(message);
}

void RunDriver::CarryOut(run_action::SendAssign& action) {
  if (action.order.rank == 0) FaultPoint("syncing", action.order.assign->message().generation());
  const auto session = sessions_.find(action.session);
  if (session != sessions_.end()) session->second.stream->Send(action.order);
}

void RunDriver::CarryOut(run_action::CloseSession& action) {
  CloseSession(action.session, action.status);
}

void RunDriver::CarryOut(run_action::Persist& action) {
  if (action.record.members.empty()) FaultPoint("forming", action.record.generation);
  ledger_->Write(ledger_entry::Generation{std::move(action.record)},
                 [this, release = HoldActions()](const absl::Status& status) {
                   if (status.ok()) return release();
                   if (absl::IsFailedPrecondition(status)) {
                     Post([this, status] { BecomeStale(status); });
                   }
                 });
}

void RunDriver::CarryOut(run_action::Record& action) {
  if (is_end_repeated_) return;
  counters_.OnEvent(action.event);
  reports_->Record(std::move(action.event));
}

void RunDriver::CarryOut(run_action::Configure& action) {
  if (configuring_.joinable()) configuring_.join();
  configuring_ =
      std::thread([this, request = request_.value_or(v1::RunRequest()), facts = action.facts] {
        auto prepared = PrepareRun(request, facts, options_.run_dir);
        if (auto* refused = std::get_if<run_event::NotConfigured>(&prepared)) {
          return Post([this, event = *refused] { Feed(event); });
        }
        const run_event::Configured configured = std::get<run_event::Configured>(prepared);
        absl::StatusOr<RunConfig> config = ReadRunConfiguration(options_.run_dir);
        const absl::Status status = config.ok()
                                        ? ledger_->WriteAndWait(ledger_entry::Configured{
                                              .run = configured.run, .device = request.device()})
                                        : config.status();
        if (!status.ok()) {
          spdlog::error("run not configured reason={}", LogValue(std::string(status.message())));
          return Post([this, status] {
            if (absl::IsFailedPrecondition(status)) return BecomeStale(status);
            Feed(run_event::NotConfigured{{.state = "FAILED",
                                           .reason = std::string(status.message()),
                                           .exit_code = static_cast<int>(ExitCodeFor(status))}});
          });
        }
        Post([this, configured, config = *std::move(config)] {
          is_configured_ = true;
          target_step_ = configured.run.target_step;
          virtual_ranks_ = configured.run.virtual_ranks;
          SetConfiguration(config);
          Feed(configured);
        });
      });
}

void RunDriver::CarryOut(run_action::CommitCheckpoint& action) {
  committer_->Commit(std::move(action), [this](run_event::CheckpointFinished finished) {
    if (finished.status.ok()) ledger_->Write(ledger_entry::Checkpoint{finished.checkpoint});
    Post([this, finished = std::move(finished)] {
      if (absl::IsFailedPrecondition(finished.status)) {
        const absl::Status current = options_.term->CheckCurrent();
        if (absl::IsFailedPrecondition(current)) return BecomeStale(current);
      }
      Feed(finished);
    });
  });
}

void RunDriver::CarryOut(run_action::DiscardCheckpoint& action) { committer_->Discard(action.id); }

void RunDriver::CarryOut(run_action::EndRun& action) {
  exit_code_ = action.outcome.exit_code;
  if (is_end_repeated_) return;
  ledger_->Write(ledger_entry::Ended{action.outcome},
                 [this, release = HoldActions()](const absl::Status& status) {
                   if (absl::IsFailedPrecondition(status)) {
                     return Post([this, status] { BecomeStale(status); });
                   }
                   release();
                 });
  // A refusal changes nothing about how the run stands.
  const bool was_refused = !is_configured_ && action.outcome.state == "FAILED";
  reports_->Then([this, outcome = action.outcome, was_refused, release = HoldActions()]() mutable {
    std::optional<Outcome> before;
    if (was_refused) {
      if (auto last = ReadLastAttempt(options_.run_dir); last.ok()) before = *last;
    }
    if (before.has_value()) {
      outcome.step = before->step;
      outcome.state_digest = before->state_digest;
    }
    constexpr int kTries = 5;
    absl::Status status = recorder_->RecordOutcome(outcome, before);
    for (int i = 1; i < kTries && !status.ok(); ++i) {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      status = recorder_->RecordOutcome(outcome, before);
    }
    if (!status.ok()) {
      spdlog::error("outcome not written reason={}", LogValue(std::string(status.message())));
      Post([this] {
        if (exit_code_ == 0) exit_code_ = static_cast<int>(ExitCode::kStorage);
      });
    } else {
      spdlog::log(outcome.state == "FAILED" ? spdlog::level::err : spdlog::level::info,
                  "{} step={} state_digest={} exit_code={} reason={}", outcome.state, outcome.step,
                  LogValue(outcome.state_digest), outcome.exit_code, LogValue(outcome.reason));
    }
    release();
  });
}

}  // namespace albef
