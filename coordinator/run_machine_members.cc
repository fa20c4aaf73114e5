// RunMachine: who may take part in the next generation, and whether it may begin without the
// others.
#include <algorithm>
#include <utility>

#include "coordinator/pulse.h"
#include "coordinator/run_machine.h"

namespace albef {
namespace {

// Workers that are alive dial a restarted coordinator several times a second.
constexpr MonotonicDuration kReattachPause = std::chrono::seconds(2);

}  // namespace

std::vector<Candidate> RunMachine::Candidates() const {
  using Readiness = Candidate::Readiness;
  std::vector<Candidate> candidates;
  for (const auto& [id, worker] : workers_) {
    Candidate candidate{.id = id,
                        .host = worker.host,
                        .order = worker.order,
                        .arrival = worker.arrival,
                        .wait_until = worker.wait_until,
                        .condition = worker.condition};
    candidate.was_member = rank_of_.contains(id);
    candidate.cut_off_from = severed_.PartnersOf(id, now_);
    const bool can_come = !worker.is_leaving && !worker.IsGivenUp() && ending_flag_ == 0;
    if (!worker.IsConnected()) {
      if (now_ < worker.wait_until) candidate.readiness = Readiness::kStarting;
    } else if (!configured_.has_value()) {
      // Before trainers are started, the workers themselves are counted.
      if (can_come) candidate.readiness = Readiness::kReady;
    } else if (!worker.HasLiveTrainer() || !worker.trainer->IsReady()) {
      if (can_come) candidate.readiness = Readiness::kStarting;
    } else {
      const RunTrainer& trainer = *worker.trainer;
      const bool has_left =
          phase_ != Phase::kForming || trainer.IsIn(v1::TRAINER_PHASE_PARKED, generation_);
      candidate.ready_since = trainer.ready_since;
      const bool runs =
          trainer.phase == v1::TRAINER_PHASE_RUNNING || trainer.phase == v1::TRAINER_PHASE_HELD;
      candidate.has_state =
          has_left && (runs || trainer.parked.has_state()) && !worker.is_distrusted;
      if (!has_left) {
        candidate.readiness = Readiness::kLeaving;
      } else if (!worker.is_leaving && !worker.is_given_up && !trainer.killed_at.has_value()) {
        candidate.readiness = Readiness::kReady;
      }
    }
    candidates.push_back(std::move(candidate));
  }
  if (const auto end = ReattachPauseEnd(candidates); end.has_value()) {
    for (Candidate& candidate : candidates) {
      if (!workers_.at(candidate.id).IsConnected()) {
        candidate.wait_until = std::min(candidate.wait_until, *end);
      }
    }
  }
  return candidates;
}

std::optional<MonotonicTime> RunMachine::ReattachPauseEnd(
    std::span<const Candidate> candidates) const {
  if (now_ >= reattach_until_ ||
      std::ranges::none_of(candidates, [](const Candidate& c) { return c.has_state; })) {
    return std::nullopt;
  }
  return joined_at_ + kReattachPause;
}

MembershipDecision RunMachine::DecideMembers() const {
  const std::vector<Candidate> candidates = Candidates();
  MembershipPolicy policy = membership_;
  if (const auto end = ReattachPauseEnd(candidates); end.has_value()) {
    policy.join_window = std::min(policy.join_window, *end - waiting_since_);
  }
  return DecideMembership(candidates, policy,
                          {.waiting_since = waiting_since_, .is_first = !was_ever_assigned_}, now_);
}

bool RunMachine::HasMostMembers() const {
  if (members_.empty()) {
    const auto num_connected = std::ranges::count_if(
        workers_, [](const auto& entry) { return entry.second.IsConnected(); });
    return membership_.expected_workers.has_value() &&
           2 * num_connected >= *membership_.expected_workers;
  }
  const auto num_connected =
      std::ranges::count_if(members_, [this](const GenerationMember& member) {
        const auto entry = workers_.find(member.worker_id);
        return entry != workers_.end() && entry->second.IsConnected();
      });
  return 2 * num_connected >= std::ssize(members_);
}

MonotonicTime RunMachine::TakeoverUntil() const {
  if (!options_.can_be_taken_over || members_.empty() || HasMostMembers()) {
    return MonotonicTime::min();
  }
  // The first of them to do it, and for it to begin.
  constexpr MonotonicDuration kMargin = std::chrono::seconds(3);
  std::optional<int64_t> first;
  for (const GenerationMember& member : members_) {
    const auto entry = workers_.find(member.worker_id);
    if (entry == workers_.end() || entry->second.IsConnected()) continue;
    const int64_t order = std::max<int64_t>(entry->second.order, 0);
    first = std::min(first.value_or(order), order);
  }
  return waiting_since_ + kTakeoverPatience + kTakeoverPatiencePerOrder * first.value_or(0) +
         kMargin;
}

}  // namespace albef
