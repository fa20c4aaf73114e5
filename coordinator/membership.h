// Who takes part in the next generation of a run.
//
// Pure functions of (candidates, policy, time): no clock, no I/O, no memory of earlier calls. Each
// decision carries its reason in words; the reason is what status shows.
//
// 1. Nobody is assigned before every live trainer of the generation before has left it: only then
//    is it known which iteration is the newest.
// 2. At most V workers take part, those who did before first; the others that are ready are spares
//    and take the place of whoever goes.
// 3. Ranks are contiguous. Workers of a host are neighbours, hosts follow the smallest order on
//    them, so a worker that comes back comes back to its place.
// 4. A restarting trainer is waited for a while only, and only if its place is empty without it.
// 5. Two that cannot reach each other never take part together: who has most such others is left
//    out first, among equals the last by rank.
#ifndef ALBEF_COORDINATOR_MEMBERSHIP_H_
#define ALBEF_COORDINATOR_MEMBERSHIP_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace albef {

using MonotonicTime = std::chrono::steady_clock::time_point;
using MonotonicDuration = std::chrono::steady_clock::duration;

struct MembershipPolicy {
  int64_t min_workers = 1;
  // How many were started together; the first forming waits for all of them.
  std::optional<int64_t> expected_workers = {};
  std::optional<int64_t> virtual_ranks = {};  // V; unset: everybody takes part
  // How long those are waited for that were never seen, and, where nobody has any state to go on
  // with, those that restart.
  MonotonicDuration join_window = std::chrono::seconds(30);
  // How long newcomers of a running generation are collected before they interrupt it.
  MonotonicDuration settle_time = std::chrono::milliseconds(500);
};

struct Candidate {
  enum class Readiness {
    kReady,     // waits to be assigned
    kLeaving,   // lives, but has not left the generation before: always waited for
    kStarting,  // will be ready if all goes well: waited for until `wait_until`
    kAbsent,    // not to be counted on
  };

  std::string id = {};
  std::string host = {};
  int64_t order = -1;   // MPI or Slurm rank; −1: none
  int64_t arrival = 0;  // decides between candidates without order
  Readiness readiness = Readiness::kAbsent;
  bool was_member = false;  // of the newest generation that was assigned
  bool has_state = false;
  std::vector<std::string> cut_off_from = {};  // ids; each says so of the other
  MonotonicTime wait_until = {};               // kStarting
  MonotonicTime ready_since = {};              // kReady
  std::string condition = {};                  // "exited with signal 9, restarting"
};

// "1 worker", "4 workers": for reasons.
std::string CountWorkers(int64_t count);

struct MembershipDecision {
  bool is_formed = false;            // false: wait, `members` is empty
  std::vector<std::string> members;  // by rank
  std::vector<std::string> spares;   // in the order in which they would be promoted
  std::string reason;
};

// `waiting_since`: when the run began to wait for members. `is_first`: no generation was ever
// assigned.
struct FormingFacts {
  MonotonicTime waiting_since = {};
  bool is_first = false;
};

MembershipDecision DecideMembership(std::span<const Candidate> candidates,
                                    const MembershipPolicy& policy, const FormingFacts& facts,
                                    MonotonicTime now);

struct AdmissionDecision {
  bool is_resize_due = false;
  std::string reason;
};

// Whether a running generation shall be held to take newcomers in. `has_progress`: it has done an
// iteration since it was formed, so that newcomers, however many there are, cannot stop the run.
AdmissionDecision DecideAdmission(std::span<const Candidate> candidates,
                                  const MembershipPolicy& policy, bool has_progress,
                                  MonotonicTime now);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_MEMBERSHIP_H_
