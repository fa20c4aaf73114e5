// What the coordinator knows about one worker and the trainer that it supervises. Plain data of
// RunMachine.
#ifndef ALBEF_COORDINATOR_RUN_WORKER_H_
#define ALBEF_COORDINATOR_RUN_WORKER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "coordinator/membership.h"
#include "coordinator/restart_budget.h"
#include "proto/control.pb.h"
#include "proto/coordinator.pb.h"

namespace albef {

// One life of a trainer process.
struct RunTrainer {
  int64_t incarnation = 0;
  int64_t pid = 0;
  v1::TrainerPhase phase = v1::TRAINER_PHASE_STARTING;
  int64_t generation = 0;  // that the phase is about
  int64_t prepared = 0;    // newest generation that it was told to prepare
  MonotonicTime prepared_at = {};
  MonotonicTime ready_since = {};
  v1::Parked parked = {};  // the newest; valid from PARKED on
  v1::Synced synced = {};
  v1::Held held = {};
  std::optional<v1::Activity> activity = {};
  MonotonicTime heard_at = {};  // when it last said what it does, else the start
  std::optional<MonotonicTime> killed_at = {};
  std::string kill_reason = {};
  bool is_written_off = false;  // was killed and does not die: counts as dead
  std::string failure = {};     // its own last words

  // Has reported for work, now or earlier.
  bool IsReady() const { return phase >= v1::TRAINER_PHASE_PARKED; }
  bool IsIn(v1::TrainerPhase wanted, int64_t wanted_generation) const {
    return phase == wanted && generation == wanted_generation;
  }
};

struct RunWorker {
  std::string id = {};
  std::string host = {};
  int64_t order = -1;
  int64_t arrival = 0;
  int64_t supervisor_pid = 0;
  uint64_t session = 0;  // 0: not connected
  MonotonicTime heard_at = {};

  std::optional<RunTrainer> trainer = {};
  std::optional<MonotonicTime> start_requested_at = {};  // and not answered yet
  RestartBudget budget = {};
  bool was_started = false;  // its trainer, at least once
  int64_t num_restarts = 0;
  MonotonicTime wait_until = {};  // how long a forming generation waits for it
  bool is_leaving = false;
  bool is_released = false;    // left, was told to end
  bool is_given_up = false;    // its trainer fails at once, whatever its budget says
  bool is_distrusted = false;  // its trainer's state differed from the others'
  std::string condition = {};  // "exited with signal 9, restarting"
  std::optional<MonotonicTime> lost_at = {};

  bool IsConnected() const { return session != 0; }
  // A trainer whose messages and state count.
  bool HasLiveTrainer() const {
    return IsConnected() && trainer.has_value() && !trainer->is_written_off;
  }
  bool IsGivenUp() const { return is_given_up || budget.IsExhausted(); }
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_WORKER_H_
