// RunMachine: how generations are formed, brought to one state, and run.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/exit_code.h"
#include "coordinator/run_machine.h"
#include "coordinator/sync_plan.h"

namespace albef {
namespace {

constexpr MonotonicDuration kKillWait = std::chrono::seconds(5);

bool Has(uint32_t flags, v1::Flag flag) { return (flags & static_cast<uint32_t>(flag)) != 0; }

}  // namespace

void RunMachine::Form(FormingCause cause, const std::string& reason) {
  generation_ = std::max(generation_, highest_generation_seen_) + 1;
  forming_cause_ = cause;
  forming_reason_ = reason;
  is_judged_ = false;
  is_final_checkpoint_requested_ = false;
  if (was_ever_assigned_) waiting_since_ = now_;
  if (cause != FormingCause::kStart && cause != FormingCause::kResize) {
    ++num_recoveries_;
    if (!recovering_since_.has_value()) recovering_since_ = now_;
  }
  PersistGeneration(reason, /*is_running=*/false);
  Enter(Phase::kForming, reason);
}

std::string RunMachine::CauseName(FormingCause cause) {
  switch (cause) {
    case FormingCause::kStart:
      return "start";
    case FormingCause::kResize:
      return "resize";
    case FormingCause::kTrainerCrash:
      return "trainer_crash";
    case FormingCause::kTrainerKilled:
      return "trainer_killed";
    case FormingCause::kWorkerLost:
      return "worker_lost";
    case FormingCause::kCommunication:
      return "communication";
    case FormingCause::kDigest:
      return "digest";
    case FormingCause::kStuck:
      return "stuck";
  }
  return "other";
}

void RunMachine::RefineCause(FormingCause cause, const std::string& reason) {
  if (forming_cause_ != FormingCause::kCommunication && forming_cause_ != FormingCause::kStuck) {
    return;
  }
  forming_cause_ = cause;
  forming_reason_ = reason;
}

void RunMachine::PrepareTrainers() {
  for (auto& [id, worker] : workers_) {
    if (!worker.HasLiveTrainer() || !worker.trainer->IsReady() || worker.is_released ||
        worker.trainer->prepared >= generation_) {
      continue;
    }
    // While members are at work, only whoever comes back from an older generation must leave it.
    if (phase_ != Phase::kForming && worker.trainer->phase == v1::TRAINER_PHASE_PARKED) continue;
    v1::ControlMessage message;
    message.mutable_prepare()->set_generation(generation_);
    worker.trainer->prepared = generation_;
    worker.trainer->prepared_at = now_;
    SendControl(worker, std::move(message));
  }
}

void RunMachine::TryForm() {
  PrepareTrainers();
  const MembershipDecision decision = DecideMembers();
  if (!decision.is_formed) {
    return SetReason(fmt::format("{} ({})", decision.reason, forming_reason_));
  }
  if (now_ < TakeoverUntil()) {
    return SetReason(
        fmt::format("most members are lost: unless their hosts take over it goes on without them "
                    "({})",
                    forming_reason_));
  }
  if (now_ < assign_not_before_) {
    return SetReason(
        fmt::format("{} generations without an iteration, waiting before the next ({})",
                    num_fruitless_, forming_reason_));
  }
  if (!CountFruitless()) Assign(decision);
}

bool RunMachine::CountFruitless() {
  const bool is_crash = forming_cause_ == FormingCause::kTrainerCrash;
  const bool is_killed = forming_cause_ == FormingCause::kTrainerKilled;
  if (is_judged_) return false;
  is_judged_ = true;
  if (!was_ever_assigned_ || forming_cause_ == FormingCause::kStart ||
      forming_cause_ == FormingCause::kResize) {
    return false;
  }
  if (!has_progress_) {
    ++num_fruitless_;
    if (is_crash) ++num_crashed_;
    if (is_crash || is_killed) ++num_killed_;
  } else if (is_crash) {
    num_repeated_crashes_ = step_ <= furthest_crash_ ? num_repeated_crashes_ + 1 : 1;
    furthest_crash_ = std::max(furthest_crash_, step_);
  }
  constexpr int kFreeGenerations = 3;
  if (num_fruitless_ >= kFreeGenerations) {
    const int exponent = std::min(num_fruitless_ - kFreeGenerations, 5);
    assign_not_before_ = now_ + std::chrono::milliseconds(250) * (1 << exponent);
  }
  std::string what;
  if (num_crashed_ >= options_.max_crashed_generations ||
      num_killed_ >= options_.max_killed_generations) {
    what = fmt::format("{} generations in a row ended with a failed trainer and no iteration",
                       std::max(num_crashed_, num_killed_));
  } else if (num_repeated_crashes_ >= options_.max_crashed_generations) {
    what = fmt::format("a trainer failed {} times without the run getting any further",
                       num_repeated_crashes_);
  } else if (num_fruitless_ >= options_.max_fruitless_generations) {
    what = fmt::format("{} generations in a row without an iteration", num_fruitless_);
  }
  if (!what.empty()) {
    Fail(static_cast<int>(ExitCode::kFailed),
         fmt::format("{}, at iteration {}: {}{}{}", what, step_, forming_reason_,
                     last_log_lines_.empty() ? "" : "; last log lines: ", last_log_lines_));
    return true;
  }
  return now_ < assign_not_before_;
}

void RunMachine::Assign(const MembershipDecision& decision) {
  std::vector<GenerationMember> members;
  std::vector<ParkedMember> parked;
  for (const std::string& id : decision.members) {
    const RunWorker& worker = workers_.at(id);
    members.push_back({.worker_id = id, .incarnation = worker.trainer->incarnation});
    parked.push_back({.parked = worker.trainer->parked, .is_distrusted = worker.is_distrusted});
  }
  SetMembers(std::move(members));
  const SyncPlan plan = PlanSync(parked);
  was_ever_assigned_ = true;
  membership_.join_window = options_.membership.join_window;
  has_progress_ = false;

  v1::Assign assign;
  assign.set_term(options_.term);
  assign.set_generation(generation_);
  v1::MemberList list;
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    v1::Member* entry = list.add_members();
    entry->set_mesh_address(parked[rank].parked.mesh_address());
    entry->set_incarnation(members_[rank].incarnation);
  }
  assign.set_members(list.SerializeAsString());
  if (plan.decision.has_value()) *assign.mutable_decision() = *plan.decision;
  assign.set_source_rank(plan.source_rank);
  assign.set_source_loads(plan.source_loads);
  for (const int rank : plan.receiver_ranks) assign.add_receiver_ranks(rank);
  assign.set_last_evaluation_step(last_evaluation_step_);
  const auto shared = std::make_shared<const SharedAssign>(std::move(assign));
  Enter(Phase::kSyncing,
        fmt::format("{}; {}", decision.reason,
                    plan.source_loads ? "rank 0 loads the state"
                                      : fmt::format("state of step {}, {} receive it",
                                                    *plan.iteration, plan.receiver_ranks.size())));
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    RunWorker& worker = *MemberAt(rank);
    worker.trainer->phase = v1::TRAINER_PHASE_ASSIGNED;
    actions_.push_back(run_action::SendAssign{worker.session,
                                              {.incarnation = worker.trainer->incarnation,
                                               .rank = static_cast<int>(rank),
                                               .assign = shared}});
  }
  Record({.kind = "membership",
          .reason = forming_reason_,
          .facts = {{"generation", generation_},
                    {"workers", static_cast<int64_t>(members_.size())},
                    {"spares", static_cast<int64_t>(decision.spares.size())}}});
}

void RunMachine::CompareSynced() {
  if (!AllMembersIn(v1::TRAINER_PHASE_SYNCED)) return;
  std::vector<v1::Synced> synced;
  ForEachMember([&](RunWorker& worker) { synced.push_back(worker.trainer->synced); });
  const DigestComparison comparison = CompareDigests(synced);
  if (comparison.are_equal) return Run();
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    const std::vector<int>& minority = comparison.minority_ranks;
    MemberAt(rank)->is_distrusted =
        minority.empty() ||
        std::find(minority.begin(), minority.end(), static_cast<int>(rank)) != minority.end();
  }
  const std::string reason = fmt::format(
      "members' states differ, {}: {}",
      comparison.minority_ranks.empty() ? "all load the newest checkpoint" : "the fewer receive it",
      comparison.description);
  Record({.kind = "digest_mismatch", .reason = reason, .facts = {{"generation", generation_}}});
  Form(FormingCause::kDigest, reason);
}

void RunMachine::OnStateDifference(const v1::StateDifference& difference) {
  const auto& minority = difference.minority_ranks();
  const std::string place =
      fmt::format("in {} at step {}", difference.where(), difference.iteration());
  std::vector<std::string> named;
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    RunWorker* worker = MemberAt(rank);
    const bool is_named =
        std::find(minority.begin(), minority.end(), static_cast<int>(rank)) != minority.end();
    if (worker == nullptr || !(is_named || minority.empty())) continue;
    worker->is_distrusted = true;
    if (!is_named) continue;
    named.push_back(fmt::format("rank {} ({})", rank, worker->host));
    Record({.kind = "state_differs",
            .reason = fmt::format("{} differs from the others {}", named.back(), place),
            .facts = {{"rank", static_cast<int64_t>(rank)},
                      {"worker", worker->id},
                      {"host", worker->host},
                      {"tensor", difference.where()},
                      {"step", difference.iteration()},
                      {"generation", generation_}}});
  }
  if (!named.empty()) {
    return Form(FormingCause::kDigest,
                fmt::format("the state of {} differs from the others' {}: it receives theirs",
                            fmt::join(named, ", "), place));
  }
  const std::string reason = fmt::format(
      "the members' states differ {} and no more than half agree: all load the newest checkpoint",
      place);
  Record({.kind = "state_differs",
          .reason = reason,
          .facts = {{"tensor", difference.where()},
                    {"step", difference.iteration()},
                    {"generation", generation_}}});
  Form(FormingCause::kDigest, reason);
}

void RunMachine::Run() {
  std::vector<std::string> connected;
  ForEachMember([&](RunWorker& worker) {
    worker.is_distrusted = false;
    connected.push_back(worker.id);
  });
  severed_.OnConnected(connected);
  generation_base_ = MemberAt(0)->trainer->synced.iteration();
  step_ = generation_base_;
  if (last_checkpoint_.has_value() && generation_base_ < last_checkpoint_->step()) {
    // What was the newest turned out to be damaged when it was loaded.
    const std::string& digest = MemberAt(0)->trainer->synced.digest();
    last_checkpoint_->set_step(generation_base_);
    last_checkpoint_->set_state_digest(absl::BytesToHexString(digest));
    last_checkpoint_->set_path(
        fmt::format("{}/checkpoints/{}", options_.run_dir, StepName(generation_base_)));
  }
  checkpoint_raised_from_ = step_;
  assign_not_before_ = {};
  PersistGeneration(forming_reason_, /*is_running=*/true);
  if (recovering_since_.has_value()) {
    Record({.kind = "recovery",
            .reason = forming_reason_,
            .facts = {
                {"cause", CauseName(forming_cause_)},
                {"generation", generation_},
                {"step", step_},
                {"workers", static_cast<int64_t>(members_.size())},
                {"duration_s", std::chrono::duration<double>(now_ - *recovering_since_).count()}}});
    recovering_since_.reset();
  }
  if (is_pause_wanted_ && ending_flag_ == 0) {
    return Enter(Phase::kPaused, fmt::format("paused before step {}", step_ + 1));
  }
  Enter(Phase::kRunning,
        fmt::format("{} from step {}", CountWorkers(static_cast<int64_t>(members_.size())), step_));
  ResumeMembers();
  RaiseFlags(pending_flags_ | ending_flag_);
}

void RunMachine::OnAllHeld() {
  if (!AllMembersIn(v1::TRAINER_PHASE_HELD)) return;
  uint32_t flags = 0;
  bool is_done = false;
  ForEachMember([&](RunWorker& worker) {
    flags |= worker.trainer->held.flags();
    is_done |= worker.trainer->held.done();
  });
  const v1::Held& first = MemberAt(0)->trainer->held;
  step_ = std::max(step_, first.iteration());
  const bool is_end =
      ending_flag_ != 0 && (Has(flags, v1::FLAG_PREEMPT) || Has(flags, v1::FLAG_STOP));
  if (is_done || is_end) {
    if (!IsHeldStateCommitted(first.iteration())) return;
    Outcome outcome;
    if (is_done) {
      outcome = {.state = "SUCCEEDED",
                 .reason = fmt::format("all {} steps done", first.iteration()),
                 .exit_code = static_cast<int>(ExitCode::kDone)};
    } else {
      outcome = EndingOutcome(fmt::format("{} at step {}", ending_reason_, first.iteration()));
    }
    outcome.state_digest = last_checkpoint_->state_digest();
    outcome.step = first.iteration();
    return End(std::move(outcome));
  }
  if (Has(flags, v1::FLAG_RESIZE)) {
    return Form(FormingCause::kResize, "workers come or go");
  }
  pending_flags_ &= ~static_cast<uint32_t>(v1::FLAG_PAUSE);
  if (is_pause_wanted_ && ending_flag_ == 0) {
    return Enter(Phase::kPaused, fmt::format("paused after step {}", first.iteration()));
  }
  ResumeMembers();  // held for something that is not wanted any more
  RaiseFlags(pending_flags_ | ending_flag_);
}

void RunMachine::NoteProgress(int64_t iteration) {
  if (phase_ != Phase::kRunning) return;
  step_ = std::max(step_, iteration);
  if (has_progress_ || iteration <= generation_base_) return;
  has_progress_ = true;
  num_fruitless_ = num_crashed_ = num_killed_ = 0;
  ForEachMember([](RunWorker& worker) { worker.budget.OnProgress(); });
}

bool RunMachine::IsGenerationAlive() const {
  return phase_ == Phase::kSyncing || phase_ == Phase::kRunning || phase_ == Phase::kPaused;
}

void RunMachine::SetMembers(std::vector<GenerationMember> members) {
  members_ = std::move(members);
  slices_.clear();
  rank_of_.clear();
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    rank_of_[members_[rank].worker_id] = static_cast<int>(rank);
  }
}

std::optional<int> RunMachine::RankOf(const RunWorker& worker) const {
  if (!worker.trainer.has_value()) return std::nullopt;
  const auto entry = rank_of_.find(worker.id);
  if (entry == rank_of_.end() ||
      members_[static_cast<size_t>(entry->second)].incarnation != worker.trainer->incarnation) {
    return std::nullopt;
  }
  return entry->second;
}

bool RunMachine::IsMember(const std::string& worker_id) const {
  const auto entry = workers_.find(worker_id);
  return entry != workers_.end() && RankOf(entry->second).has_value();
}

RunWorker* RunMachine::MemberAt(size_t rank) {
  const auto entry = workers_.find(members_[rank].worker_id);
  return entry == workers_.end() ? nullptr : &entry->second;
}

bool RunMachine::AllMembersIn(v1::TrainerPhase phase) {
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    const RunWorker* worker = MemberAt(rank);
    if (worker == nullptr || !worker->HasLiveTrainer() ||
        worker->trainer->incarnation != members_[rank].incarnation ||
        !worker->trainer->IsIn(phase, generation_)) {
      return false;
    }
  }
  return !members_.empty();
}

void RunMachine::ForEachMember(const std::function<void(RunWorker&)>& act) {
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    RunWorker* worker = MemberAt(rank);
    if (worker != nullptr && RankOf(*worker).has_value()) act(*worker);
  }
}

void RunMachine::CheckWrittenOff() {
  for (auto& [id, worker] : workers_) {
    if (!worker.HasLiveTrainer() || !worker.trainer->killed_at.has_value() ||
        now_ - *worker.trainer->killed_at <= kKillWait) {
      continue;
    }
    const bool was_member = RankOf(worker).has_value();
    worker.trainer->is_written_off = true;
    worker.condition = "was killed and does not die: " + worker.trainer->kill_reason;
    worker.wait_until = now_;
    if (was_member && IsGenerationAlive()) {
      Form(FormingCause::kTrainerKilled,
           fmt::format("the trainer on {} {}", worker.host, worker.condition));
    }
  }
}

}  // namespace albef
