// RunMachine: what follows from time, and from any change.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/exit_code.h"
#include "coordinator/run_machine.h"

namespace albef {

RunActions RunMachine::Tick(MonotonicTime now) {
  AdvanceClock(now);
  if (!HasEnded()) CheckHeartbeats();
  if (!HasEnded()) CheckHangs();
  if (!HasEnded()) CheckWrittenOff();
  if (!HasEnded()) CheckCheckpointRetry();
  ForgetLostWorkers();
  Step();
  constexpr MonotonicDuration kLasting = std::chrono::seconds(1);
  if (now_ - reason_since_ >= kLasting) LogReason();
  return std::exchange(actions_, {});
}

void RunMachine::Step() {
  if (!HasEnded()) CheckEnd();
  if (HasEnded()) return;
  StartTrainers();
  switch (phase_) {
    case Phase::kWaiting:
      CheckStart();
      break;
    case Phase::kRecovering:
      CheckRecovery();
      break;
    case Phase::kSyncing:
      CompareSynced();
      break;
    case Phase::kRunning:
      OnAllHeld();
      if (phase_ == Phase::kRunning) CheckAdmission();
      break;
    case Phase::kPaused:
      if (HasMemberThatLeaves()) Form(FormingCause::kResize, "workers go");
      break;
    case Phase::kForming:
    case Phase::kEnded:
      break;
  }
  if (phase_ == Phase::kForming) TryForm();
  if (HasEnded()) return;
  if (IsGenerationAlive()) PrepareTrainers();
  ReleaseLeavers();
}

void RunMachine::CheckStart() {
  const bool anyone = std::any_of(workers_.begin(), workers_.end(),
                                  [](const auto& entry) { return entry.second.IsConnected(); });
  if (!anyone) {
    waiting_since_ = now_;
    return SetReason("no worker has joined");
  }
  if (is_configure_requested_ && !configured_.has_value()) return;
  const MembershipDecision decision = DecideMembers();
  SetReason(decision.reason);
  if (!decision.is_formed) return;
  if (configured_.has_value()) return Form(FormingCause::kStart, decision.reason);
  is_configure_requested_ = true;
  FirstStart facts{.num_workers = static_cast<int64_t>(decision.members.size())};
  const std::string& first_host = workers_.at(decision.members.front()).host;
  for (const std::string& id : decision.members) {
    facts.num_workers_on_first_host += workers_.at(id).host == first_host ? 1 : 0;
  }
  SetReason(fmt::format("{} joined, preparing the run", CountWorkers(facts.num_workers)));
  actions_.push_back(run_action::Configure{facts});
}

void RunMachine::StartTrainers() {
  constexpr MonotonicDuration kRequestAgain = std::chrono::seconds(10);
  if (!configured_.has_value() || ending_flag_ != 0) return;
  for (auto& [id, worker] : workers_) {
    if (!worker.IsConnected() || worker.trainer.has_value() || worker.is_leaving ||
        worker.IsGivenUp() || now_ < worker.budget.restart_at()) {
      continue;
    }
    if (worker.start_requested_at.has_value() &&
        now_ - *worker.start_requested_at < kRequestAgain) {
      continue;
    }
    if (!worker.start_requested_at.has_value()) {
      worker.num_restarts += worker.was_started ? 1 : 0;
      worker.was_started = true;
      if (!was_ever_assigned_) worker.wait_until = now_ + options_.hangs.startup_limit;
    }
    worker.start_requested_at = now_;
    v1::CoordinatorMessage message;
    v1::StartTrainer& start = *message.mutable_start_trainer();
    start.set_run_dir(options_.run_dir);
    start.set_device(options_.device);
    start.set_action(last_checkpoint_.has_value() ? v1::START_ACTION_CONTINUE
                                                  : configured_->action);
    start.set_import_path(configured_->import_path);
    Send(worker, std::move(message));
  }
}

MonotonicDuration RunMachine::HeartbeatInterval() const {
  constexpr MonotonicDuration kShortest = std::chrono::milliseconds(200);
  constexpr MonotonicDuration kPerWorker = std::chrono::microseconds(500);  // 2,000 a second in all
  constexpr int64_t kMany = 1'000'000;  // the sum is no number that anybody may choose
  const int64_t num_workers = std::max(static_cast<int64_t>(workers_.size()),
                                       std::min(membership_.expected_workers.value_or(0), kMany));
  const MonotonicDuration longest =
      std::min(options_.heartbeat_limit * 2, options_.hangs.hang_limit) / 5;
  return std::min(std::max(kShortest, num_workers * kPerWorker), longest);
}

void RunMachine::CheckHeartbeats() {
  for (auto& [id, worker] : workers_) {
    if (!worker.IsConnected() || now_ - worker.heard_at <= options_.heartbeat_limit) continue;
    const std::string reason = fmt::format(
        "no heartbeat for {:.1f} s", std::chrono::duration<double>(now_ - worker.heard_at).count());
    actions_.push_back(
        run_action::CloseSession{worker.session, absl::DeadlineExceededError(reason)});
    LoseWorker(worker, reason);
    if (HasEnded()) return;
  }
}

std::vector<WatchedTrainer> RunMachine::Watched(bool only_members) const {
  std::vector<WatchedTrainer> watched;
  for (const auto& [id, worker] : workers_) {
    if (!worker.HasLiveTrainer() || worker.trainer->killed_at.has_value()) continue;
    if (only_members && !RankOf(worker).has_value()) continue;
    const RunTrainer& trainer = *worker.trainer;
    WatchedTrainer entry{.worker_id = id, .activity = trainer.activity};
    // A worker that is silent itself says nothing more about its trainer: were that silent too, the
    // worker would have said so within this time.
    const MonotonicTime known_until = std::min(now_, worker.heard_at + std::chrono::seconds(1));
    entry.silent_for = known_until - trainer.heard_at;
    if (entry.activity.has_value()) {
      // Whatever stopped the coordinator may have stopped everybody: that time does not count.
      const double since_gap_s = std::chrono::duration<double>(now_ - gap_end_).count();
      const double section_s = entry.activity->section_seconds();
      if (section_s > since_gap_s) {
        entry.activity->set_section_seconds(
            std::max(since_gap_s, section_s - std::chrono::duration<double>(gap_).count()));
      }
    }
    if (phase_ == Phase::kForming && trainer.prepared == generation_ &&
        !trainer.IsIn(v1::TRAINER_PHASE_PARKED, generation_)) {
      entry.leaving_for = now_ - trainer.prepared_at;
    }
    watched.push_back(std::move(entry));
  }
  return watched;
}

void RunMachine::CheckHangs() {
  const std::vector<Culprit> culprits =
      FindCulprits(Watched(/*only_members=*/false), options_.hangs);
  for (const Culprit& culprit : culprits) Kill(workers_.at(culprit.worker_id), culprit.reason);
  if (!culprits.empty()) return;
  if (phase_ == Phase::kSyncing && now_ - phase_since_ > options_.hangs.startup_limit) {
    return Form(FormingCause::kStuck, "the members do not get to the same state");
  }
  if (phase_ != Phase::kRunning || now_ - phase_since_ <= options_.hangs.WaitLimit()) return;
  const std::vector<WatchedTrainer> members = Watched(/*only_members=*/true);
  if (members.size() == members_.size() && AllWaitTooLong(members, options_.hangs)) {
    Form(FormingCause::kStuck, "all members wait for each other");
  }
}

void RunMachine::Kill(RunWorker& worker, const std::string& reason) {
  worker.trainer->killed_at = now_;
  worker.trainer->kill_reason = reason;
  Record({.kind = "trainer_killed",
          .reason = reason,
          .facts = {{"worker", worker.id},
                    {"host", worker.host},
                    {"pid", worker.trainer->pid},
                    {"generation", generation_},
                    {"step", step_}}});
  v1::CoordinatorMessage message;
  message.mutable_kill_trainer()->set_incarnation(worker.trainer->incarnation);
  message.mutable_kill_trainer()->set_reason(reason);
  Send(worker, std::move(message));
}

bool RunMachine::HasMemberThatLeaves() const {
  return std::any_of(workers_.begin(), workers_.end(), [this](const auto& entry) {
    return entry.second.is_leaving && RankOf(entry.second).has_value();
  });
}

void RunMachine::CheckAdmission() {
  if (resize_generation_ == generation_ || ending_flag_ != 0) return;
  std::string reason = "workers go";
  if (!HasMemberThatLeaves()) {
    if (static_cast<int64_t>(members_.size()) >= configured_->virtual_ranks) return;
    const AdmissionDecision decision =
        DecideAdmission(Candidates(), membership_, has_progress_, now_);
    if (!decision.is_resize_due) return;
    reason = decision.reason;
  }
  resize_generation_ = generation_;
  SetReason(reason);
  RaiseFlags(v1::FLAG_RESIZE);
}

void RunMachine::CheckRecovery() {
  std::vector<std::string> missing;
  for (const GenerationMember& member : members_) {
    const RunWorker& worker = workers_.at(member.worker_id);
    if (!worker.IsConnected()) {
      missing.push_back(worker.id);
      continue;
    }
    if (!RankOf(worker).has_value() ||
        (!worker.trainer->IsIn(v1::TRAINER_PHASE_RUNNING, generation_) &&
         !worker.trainer->IsIn(v1::TRAINER_PHASE_HELD, generation_))) {
      return Form(FormingCause::kStart, fmt::format("{} is not running in generation {} any more",
                                                    worker.host, generation_));
    }
  }
  if (!missing.empty()) {
    if (now_ >= reattach_until_) {
      return Form(FormingCause::kStart,
                  fmt::format("{} of {} members have not come back to the restarted coordinator",
                              missing.size(), members_.size()));
    }
    return SetReason(fmt::format("the coordinator was restarted, waiting for {} of {} members",
                                 missing.size(), members_.size()));
  }
  ForEachMember([this](RunWorker& worker) {
    const v1::Held& held = worker.trainer->held;
    if (worker.trainer->phase != v1::TRAINER_PHASE_HELD) return;
    step_ = std::max(step_, held.iteration());
    is_pause_wanted_ |= (held.flags() & static_cast<uint32_t>(v1::FLAG_PAUSE)) != 0;
  });
  generation_base_ = step_;
  Enter(Phase::kRunning, fmt::format("all {} members came back running", members_.size()));
  RaiseFlags(pending_flags_ | ending_flag_);
}

void RunMachine::CheckEnd() {
  const bool any_live = std::any_of(workers_.begin(), workers_.end(), [](const auto& entry) {
    return entry.second.HasLiveTrainer() && entry.second.trainer->IsReady();
  });
  if (ending_flag_ != 0) {
    const bool awaits_members = phase_ == Phase::kRecovering && now_ < reattach_until_;
    if (!any_live && !awaits_members) return EndWithoutBoundary("no trainer is left");
    if (ending_flag_ == v1::FLAG_PREEMPT && now_ - ending_since_ > options_.preempt_grace) {
      return EndWithoutBoundary("preempt.grace_s was too short for another checkpoint");
    }
  }
  int64_t num_connected = 0, num_given_up = 0, num_staying = 0;
  std::string condition;
  for (const auto& [id, worker] : workers_) {
    if (!worker.IsConnected()) continue;
    ++num_connected;
    num_staying += worker.is_leaving ? 0 : 1;
    if (!worker.IsGivenUp() || worker.HasLiveTrainer()) continue;
    ++num_given_up;
    condition = fmt::format("{} {}", worker.host, worker.condition);
  }
  if (num_connected > 0 && num_given_up == num_connected) {
    return Fail(static_cast<int>(ExitCode::kFailed),
                fmt::format("no trainer stays alive ({}); the last one: {}; last log lines: {}",
                            CountWorkers(num_connected), condition, last_log_lines_));
  }
  if (num_connected > 0 && num_staying == 0 && ending_flag_ == 0) {
    StartEnding(v1::FLAG_PREEMPT, "all workers leave");
  }
}

void RunMachine::ReleaseLeavers() {
  if (phase_ == Phase::kForming || phase_ == Phase::kRecovering) return;
  for (auto& [id, worker] : workers_) {
    if (!worker.is_leaving || worker.is_released || !worker.IsConnected()) continue;
    if (IsGenerationAlive() && RankOf(worker).has_value()) continue;
    worker.is_released = true;
    SendEnd(worker, static_cast<int>(ExitCode::kDone), "DRAINED", worker.condition);
  }
}

void RunMachine::ForgetLostWorkers() {
  static constexpr MonotonicDuration kRemembered = std::chrono::seconds(60);
  std::erase_if(workers_, [this](const auto& entry) {
    const RunWorker& worker = entry.second;
    const bool is_forgotten = worker.lost_at.has_value() && now_ - *worker.lost_at > kRemembered &&
                              now_ >= reattach_until_;
    if (is_forgotten) severed_.Forget(worker.id);
    return is_forgotten;
  });
}

}  // namespace albef
