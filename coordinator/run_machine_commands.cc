// RunMachine: the operator's commands, the ends of a run, and how actions are made.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "common/exit_code.h"
#include "common/log.h"
#include "coordinator/run_machine.h"
#include "coordinator/run_state.h"

namespace albef {

absl::Status RunMachine::Command(RunCommand command, const std::string& argument, MonotonicTime now,
                                 RunActions* actions) {
  AdvanceClock(now);
  absl::Status status =
      HasEnded()
          ? absl::FailedPreconditionError(fmt::format("the run has ended: {}", outcome_.state))
          : Apply(command, argument);
  Step();
  std::move(actions_.begin(), actions_.end(), std::back_inserter(*actions));
  actions_.clear();
  return status;
}

absl::Status RunMachine::Apply(RunCommand command, const std::string& argument) {
  if (ending_flag_ != 0) {
    return absl::FailedPreconditionError(fmt::format("the run is ending: {}", ending_reason_));
  }
  switch (command) {
    case RunCommand::kCheckpoint:
      if (!was_ever_assigned_) {
        return absl::FailedPreconditionError("the run has not begun: " + reason_);
      }
      if (is_pause_wanted_ && !(phase_ == Phase::kPaused && AllMembersIn(v1::TRAINER_PHASE_HELD))) {
        return absl::FailedPreconditionError(
            "the run is about to pause or has not done an iteration since it was formed; take the "
            "checkpoint when it is paused at a boundary, or resume it first");
      }
      checkpoint_wanted_from_ = step_;
      checkpoint_raised_from_ = std::max(checkpoint_raised_from_, step_);
      if (!last_checkpoint_.has_value() || last_checkpoint_->step() < step_) WantCheckpoint();
      return absl::OkStatus();
    case RunCommand::kPause:
      is_pause_wanted_ = true;
      pending_flags_ |= v1::FLAG_PAUSE;
      if (phase_ == Phase::kRunning) RaiseFlags(v1::FLAG_PAUSE);
      return absl::OkStatus();
    case RunCommand::kResume:
      if (!is_pause_wanted_) return absl::FailedPreconditionError("the run is not paused");
      is_pause_wanted_ = false;
      pending_flags_ &= ~static_cast<uint32_t>(v1::FLAG_PAUSE);
      LeavePause("resumed");
      return absl::OkStatus();
    case RunCommand::kDrainRun:
      StartEnding(v1::FLAG_PREEMPT, argument.empty() ? "drained by the operator" : argument);
      return absl::OkStatus();
    case RunCommand::kStop:
      StartEnding(v1::FLAG_STOP, argument.empty() ? "stopped by the operator" : argument);
      return absl::OkStatus();
    case RunCommand::kDrainWorker:
      return DrainWorker(argument);
  }
  return absl::InternalError("unknown command");
}

absl::Status RunMachine::DrainWorker(const std::string& name) {
  int64_t rank = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), rank);
  if (error != std::errc() || end != name.data() + name.size()) rank = -1;
  std::vector<RunWorker*> named;
  int64_t num_others = 0;
  for (auto& [id, worker] : workers_) {
    if (!worker.IsConnected() || worker.is_leaving) continue;
    const bool has_rank = rank >= 0 && RankOf(worker).has_value() && *RankOf(worker) == rank;
    if (id == name || has_rank || (rank < 0 && worker.host == name)) {
      named.push_back(&worker);
    } else {
      ++num_others;
    }
  }
  if (named.empty()) {
    return absl::NotFoundError(fmt::format(
        "no worker has the id, rank or host \"{}\"; `albefctl workers` lists them", name));
  }
  if (num_others == 0) {
    return absl::FailedPreconditionError(
        fmt::format("nobody would be left without \"{}\"; `albefctl drain` without a name ends the "
                    "run with a checkpoint",
                    name));
  }
  for (RunWorker* worker : named) {
    worker->is_leaving = true;
    worker->condition = "drained by the operator";
  }
  return absl::OkStatus();
}

void RunMachine::StartEnding(uint32_t flag, const std::string& reason) {
  if (HasEnded() || ending_flag_ != 0) return;
  ending_flag_ = flag;
  ending_reason_ = reason;
  ending_since_ = now_;
  SetReason(reason);
  RecordState(reason);
  if (phase_ == Phase::kRunning) RaiseFlags(flag);
  LeavePause(reason);
}

void RunMachine::LeavePause(const std::string& reason) {
  if (phase_ != Phase::kPaused) return;
  Enter(Phase::kRunning, reason);
  ResumeMembers();
  RaiseFlags(pending_flags_ | ending_flag_);
}

void RunMachine::RaiseFlags(uint32_t flags) {
  if (flags == 0) return;
  ForEachMember([&](RunWorker& worker) {
    v1::ControlMessage message;
    message.mutable_raise_flags()->set_flags(flags);
    message.mutable_raise_flags()->set_checkpoint_from(checkpoint_raised_from_);
    SendControl(worker, std::move(message));
  });
}

void RunMachine::ResumeMembers() {
  ForEachMember([&](RunWorker& worker) {
    v1::ControlMessage message;
    if (worker.trainer->phase == v1::TRAINER_PHASE_HELD) {
      message.mutable_resume()->set_generation(generation_);
    } else {
      message.mutable_run()->set_generation(generation_);
    }
    worker.trainer->phase = v1::TRAINER_PHASE_RUNNING;
    SendControl(worker, std::move(message));
  });
}

Outcome RunMachine::EndingOutcome(const std::string& reason) const {
  const bool is_stop = ending_flag_ == v1::FLAG_STOP;
  return {.state = is_stop ? "STOPPED" : "PREEMPTED",
          .reason = reason,
          .exit_code = static_cast<int>(is_stop ? ExitCode::kDone : ExitCode::kPreempted),
          .step = step_};
}

void RunMachine::EndWithoutBoundary(const std::string& why) {
  Outcome outcome = EndingOutcome(fmt::format("{}; {}", ending_reason_, why));
  if (last_checkpoint_.has_value()) {
    outcome.reason += fmt::format("; the last committed step is {}", last_checkpoint_->step());
    outcome.state_digest = last_checkpoint_->state_digest();
    outcome.step = last_checkpoint_->step();
  } else {
    outcome.reason += "; no checkpoint was committed";
    outcome.step = 0;
  }
  End(std::move(outcome));
}

void RunMachine::Fail(int exit_code, const std::string& reason) {
  Outcome outcome{.state = "FAILED", .reason = reason, .exit_code = exit_code, .step = step_};
  if (last_checkpoint_.has_value() && last_checkpoint_->step() == step_) {
    outcome.state_digest = last_checkpoint_->state_digest();
  }
  End(std::move(outcome));
}

void RunMachine::End(Outcome outcome) {
  outcome_ = std::move(outcome);
  step_ = outcome_.step;
  Enter(Phase::kEnded, outcome_.reason);
  Record({.kind = "run_ended",
          .reason = outcome_.reason,
          .facts = {{"state", outcome_.state},
                    {"exit_code", static_cast<int64_t>(outcome_.exit_code)},
                    {"state_digest", outcome_.state_digest},
                    {"step", outcome_.step}}});
  actions_.push_back(run_action::EndRun{outcome_});
  for (auto& [id, worker] : workers_) {
    if (worker.IsConnected() && !worker.is_released) {
      SendEnd(worker, outcome_.exit_code, outcome_.state, outcome_.reason);
    }
  }
}

v1::RunState RunMachine::state() const {
  if (phase_ == Phase::kEnded) {
    if (outcome_.state == "SUCCEEDED") return v1::RUN_STATE_SUCCEEDED;
    if (outcome_.state == "PREEMPTED") return v1::RUN_STATE_PREEMPTED;
    if (outcome_.state == "STOPPED") return v1::RUN_STATE_STOPPED;
    return v1::RUN_STATE_FAILED;
  }
  if (ending_flag_ != 0) return v1::RUN_STATE_DRAINING;
  switch (phase_) {
    case Phase::kWaiting:
      return v1::RUN_STATE_WAITING;
    case Phase::kRecovering:
      return v1::RUN_STATE_RECOVERING;
    case Phase::kForming:
      return v1::RUN_STATE_FORMING;
    case Phase::kSyncing:
      return v1::RUN_STATE_SYNCING;
    case Phase::kRunning:
      return v1::RUN_STATE_RUNNING;
    case Phase::kPaused:
      return v1::RUN_STATE_PAUSED;
    case Phase::kEnded:
      break;
  }
  return v1::RUN_STATE_UNSPECIFIED;
}

void RunMachine::Enter(Phase phase, const std::string& reason) {
  phase_ = phase;
  phase_since_ = now_;
  reason_.clear();
  SetReason(reason);
  LogReason();
  RecordState(reason);
}

void RunMachine::RecordState(const std::string& reason) {
  const v1::RunState now = state();
  if (now == recorded_state_ && now != v1::RUN_STATE_FORMING) return;
  Record({.kind = "state",
          .reason = reason,
          .facts = {
              {"from", recorded_state_ == v1::RUN_STATE_UNSPECIFIED ? std::string("WAITING")
                                                                    : StateName(recorded_state_)},
              {"to", StateName(now)},
              {"term", options_.term},
              {"generation", generation_},
              {"step", step_}}});
  recorded_state_ = now;
  state_since_ = now_;
}

void RunMachine::SetReason(const std::string& reason) {
  if (reason == reason_) return;
  reason_ = reason;
  reason_since_ = now_;
  is_reason_logged_ = false;
}

void RunMachine::LogReason() {
  if (is_reason_logged_) return;
  is_reason_logged_ = true;
  const bool has_failed = state() == v1::RUN_STATE_FAILED;
  const std::string now = StateName(state());
  const std::string change =
      logged_state_.empty() || logged_state_ == now ? "" : fmt::format(" from={}", logged_state_);
  spdlog::log(has_failed ? spdlog::level::err : spdlog::level::info,
              "run state={}{} generation={} step={} reason={}", now, change, generation_, step_,
              LogValue(reason_));
  logged_state_ = now;
}

void RunMachine::Send(const RunWorker& worker, v1::CoordinatorMessage message) {
  actions_.push_back(run_action::Send{worker.session, std::move(message)});
}

void RunMachine::SendControl(const RunWorker& worker, v1::ControlMessage control) {
  v1::CoordinatorMessage message;
  v1::ToTrainer& to_trainer = *message.mutable_to_trainer();
  to_trainer.set_incarnation(worker.trainer.has_value() ? worker.trainer->incarnation : 0);
  *to_trainer.mutable_message() = std::move(control);
  Send(worker, std::move(message));
}

void RunMachine::SendEnd(const RunWorker& worker, int exit_code, const std::string& state,
                         const std::string& reason) {
  v1::ControlMessage message;
  message.mutable_end()->set_exit_code(exit_code);
  message.mutable_end()->set_state(state);
  message.mutable_end()->set_reason(reason);
  SendControl(worker, std::move(message));
}

void RunMachine::Record(Event event) { actions_.push_back(run_action::Record{std::move(event)}); }

void RunMachine::PersistGeneration(const std::string& cause, bool is_running) {
  GenerationRecord record{.generation = generation_, .cause = cause, .members = {}};
  if (is_running) record.members = members_;
  actions_.push_back(run_action::Persist{std::move(record)});
}

RunWorker* RunMachine::FindSession(uint64_t session) {
  const auto entry = sessions_.find(session);
  return entry == sessions_.end() ? nullptr : &workers_.at(entry->second);
}

}  // namespace albef
