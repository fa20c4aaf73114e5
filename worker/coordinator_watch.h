// When a supervisor starts a coordinator, waits for one, or gives up (design §6, Takeover).
//
//   - The first worker of a start starts one, and starts the next at once when that dies.
//   - Without a coordinator for 2 s + 1 s × order every other one that has met this run's
//     coordinator claims the next term. While somebody has claimed a term and is not met yet, it
//     gets the time that starting takes, and its successor twice as long: where the machine or its
//     storage is slow, one of them gets through. So one dead coordinator is replaced by one, and a
//     slow start is not overtaken by the next in line.
//   - While the pulse in the run directory (coordinator/pulse.h) shows that the newest term's
//     coordinator leads most of the members, whoever cannot reach it is itself cut off: it takes
//     nothing over, and lets the others go first should that coordinator die.
//   - With an external coordinator nobody takes over; after `wait` it ends.
//   - A refusal that may heal (a stale coordinator answered) counts once it lasts.
//
// Pure: the caller brings time (of a StopAwareClock) and news. For one thread at a time.
#ifndef ALBEF_WORKER_COORDINATOR_WATCH_H_
#define ALBEF_WORKER_COORDINATOR_WATCH_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "worker/coordinator_finder.h"

namespace albef {

class CoordinatorWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Options {
    bool is_embedded = true;
    int64_t order = 0;
    Duration patience = kTakeoverPatience;
    Duration patience_per_order = kTakeoverPatiencePerOrder;
    Duration starting = std::chrono::seconds(10);  // between a claim and the first answer
    Duration wait = std::chrono::seconds(600);     // without any coordinator
    Duration refusal = std::chrono::seconds(5);
    int max_starts = 6;  // of our own in a row that nobody has met
  };

  enum class Action {
    kNone,
    kStart,     // a coordinator; one of our own that is still alive is to be killed first
    kRunEnded,  // Decision::ended
    kRefused,   // Decision::status
    kGiveUp,    // Decision::status
  };

  struct Decision {
    Action action = Action::kNone;
    std::optional<int64_t> after_term = {};  // kStart; unset: whatever term is next
    Outcome ended = {};
    absl::Status status = {};
  };

  CoordinatorWatch(Options options, Time now);

  // A coordinator has welcomed this worker.
  void OnWelcome(int64_t term, Time now);
  // The session, or an attempt at one, has ended.
  void OnClosed(const absl::Status& status, Time now);
  void OnSighting(const CoordinatorSighting& sighting, Time now);

  // A coordinator of our own.
  void OnStarted(pid_t pid, Time now);
  // `has_lost`: another one has the term, or the run has ended (exit code 0).
  void OnExited(bool has_lost, const std::string& how, Time now);

  // To be asked at least every 100 ms while there is no session.
  Decision Decide(Time now);

  bool IsConnected() const { return is_connected_; }
  bool WasWelcomed() const { return term_ != 0; }
  int64_t term() const { return term_; }  // newest that welcomed this worker; 0: none

 private:
  bool OwnWasNewest() const;
  // Whether others have a coordinator that this worker cannot reach.
  bool AreOthersLed(Time now) const;
  // How long without a sign from any coordinator until this worker starts one.
  Duration Patience() const;

  const Options options_;
  bool is_connected_ = false;
  int64_t term_ = 0;
  Time lost_at_;  // no session since
  Time sign_at_;  // somebody was there, or said that he comes
  CoordinatorSighting sighting_;
  int64_t newest_term_ = 0;
  std::optional<Time> led_at_;  // the others, newest sign of it since this worker lost its session
  absl::Status last_failure_;
  std::optional<Time> refused_since_;
  absl::Status refusal_;

  std::set<int64_t> own_pids_;  // of all that were started here
  bool own_is_alive_ = false;
  bool own_is_new_ = false;          // nobody has met it yet
  std::optional<Time> own_died_at_;  // and is not replaced yet
  bool has_looked_ = false;          // since then: somebody else may have taken over
  int num_starts_ = 0;
};

}  // namespace albef

#endif  // ALBEF_WORKER_COORDINATOR_WATCH_H_
