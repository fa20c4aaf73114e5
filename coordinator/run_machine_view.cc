// RunMachine: what operators see.
#include <algorithm>
#include <string_view>
#include <tuple>

#include "coordinator/run_machine.h"

namespace albef {
namespace {

std::string_view SectionName(const v1::Activity& activity) {
  switch (activity.section()) {
    case v1::Activity::SECTION_SETUP:
      return "setup";
    case v1::Activity::SECTION_IDLE:
      return "idle";
    case v1::Activity::SECTION_SYNC:
      return "sync";
    case v1::Activity::SECTION_DATA:
      return "data";
    case v1::Activity::SECTION_COMPUTE:
      return "compute";
    case v1::Activity::SECTION_EXCHANGE:
      return "exchange";
    case v1::Activity::SECTION_SNAPSHOT:
      return "snapshot";
    case v1::Activity::SECTION_CHECKPOINT:
      return "checkpoint";
    case v1::Activity::SECTION_EVALUATE:
      return "evaluate";
    default:
      return "";
  }
}

}  // namespace

v1::RunStatus RunMachine::Status() const {
  v1::RunStatus status;
  status.set_run_id(options_.run_id);
  status.set_run_dir(options_.run_dir);
  status.set_state(state());
  status.set_reason(reason_);
  status.set_term(options_.term);
  status.set_generation(generation_);
  status.set_step(step_);
  if (last_step_.step() > 0) *status.mutable_last_step() = last_step_;
  if (last_checkpoint_.has_value()) *status.mutable_last_checkpoint() = *last_checkpoint_;
  status.set_recoveries(num_recoveries_);
  status.set_state_seconds(std::chrono::duration<double>(now_ - state_since_).count());
  int64_t num_members = 0;
  for (const auto& [id, worker] : workers_) {
    if (RankOf(worker).has_value()) {
      ++num_members;
    } else if (worker.HasLiveTrainer()) {
      status.set_num_spares(status.num_spares() + 1);
    }
  }
  status.set_num_members(num_members);
  if (configured_.has_value()) {
    status.set_target_step(configured_->target_step);
    const int64_t virtual_ranks = configured_->virtual_ranks;
    status.set_virtual_ranks(virtual_ranks);
    if (num_members > 0) {
      const int64_t busiest = (virtual_ranks + num_members - 1) / num_members;
      status.set_efficiency(static_cast<double>(virtual_ranks) /
                            static_cast<double>(num_members * busiest));
    }
  }
  if (HasEnded()) {
    status.set_exit_code(outcome_.exit_code);
    status.set_state_digest(outcome_.state_digest);
  }
  return status;
}

std::string RunMachine::StateOf(const RunWorker& worker) const {
  if (!worker.IsConnected()) return "lost";
  if (worker.is_leaving) return "draining";
  if (!worker.HasLiveTrainer()) return worker.was_started ? "restarting" : "starting";
  switch (worker.trainer->phase) {
    case v1::TRAINER_PHASE_PARKED:
      return IsGenerationAlive() && !RankOf(worker).has_value() ? "spare" : "parked";
    case v1::TRAINER_PHASE_ASSIGNED:
    case v1::TRAINER_PHASE_SYNCED:
      return "syncing";
    case v1::TRAINER_PHASE_RUNNING:
      return "running";
    case v1::TRAINER_PHASE_HELD:
      return "held";
    default:
      return "starting";
  }
}

// Only people ask, and for thousands of workers it takes a while.
const std::vector<Slice>& RunMachine::Slices() const {
  if (slices_.empty() && configured_.has_value()) {
    const auto slices =
        DivideRanks(configured_->virtual_ranks, static_cast<int64_t>(members_.size()));
    if (slices.ok()) slices_ = *slices;
  }
  return slices_;
}

v1::ListWorkersResponse RunMachine::Workers() const {
  v1::ListWorkersResponse response;
  for (const auto& [id, worker] : workers_) {
    v1::Worker& entry = *response.add_workers();
    entry.set_worker_id(id);
    entry.set_host(worker.host);
    entry.set_order(worker.order);
    entry.set_supervisor_pid(worker.supervisor_pid);
    entry.set_restarts(worker.num_restarts);
    entry.set_state(StateOf(worker));
    const std::optional<int> rank = RankOf(worker);
    entry.set_rank(rank.value_or(-1));
    if (rank.has_value() && static_cast<size_t>(*rank) < Slices().size()) {
      const RankRange& hosted = Slices()[static_cast<size_t>(*rank)].ranks;
      entry.set_virtual_rank_begin(hosted.begin);
      entry.set_virtual_rank_end(hosted.end);
    }
    if (worker.trainer.has_value()) {
      entry.set_trainer_pid(worker.trainer->pid);
      if (worker.trainer->activity.has_value()) {
        entry.set_step(worker.trainer->activity->iteration());
        entry.set_section(std::string(SectionName(*worker.trainer->activity)));
      }
    }
  }
  std::sort(response.mutable_workers()->begin(), response.mutable_workers()->end(),
            [](const v1::Worker& a, const v1::Worker& b) {
              const auto key = [](const v1::Worker& worker) {
                return std::tuple(worker.rank() < 0, worker.rank(), worker.host(), worker.order(),
                                  worker.worker_id());
              };
              return key(a) < key(b);
            });
  return response;
}

}  // namespace albef
