// Who is stuck (design §6). Pure.
//
// A trainer that waits for others is a victim, never a culprit. Culprits are trainers whose own
// section takes longer than the limit they gave for it, whose reporting thread is silent (stopped),
// or that do not leave a generation when told to. Only culprits are named; if all wait and nobody
// is one, a new generation is formed without killing anybody.
#ifndef ALBEF_COORDINATOR_HANG_DETECTOR_H_
#define ALBEF_COORDINATOR_HANG_DETECTOR_H_

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "coordinator/membership.h"
#include "proto/control.pb.h"

namespace albef {

struct HangLimits {
  MonotonicDuration hang_limit = std::chrono::seconds(10);  // elastic.hang_limit_s
  // For a trainer's first sign of life, and for everything that has no other limit.
  MonotonicDuration startup_limit = std::chrono::seconds(600);

  // Operations between trainers end by themselves hang_limit + 5 s after the last sign of a peer;
  // one that waits this long has had the time to notice and to say so.
  MonotonicDuration WaitLimit() const { return 2 * hang_limit + std::chrono::seconds(5); }
};

// A trainer that lives and was not told to die.
struct WatchedTrainer {
  std::string worker_id = {};
  std::optional<v1::Activity> activity = {};  // the newest; unset: none yet
  MonotonicDuration silent_for = {};          // since that activity, or since it was started
  // Since it was told to leave a generation, while it has not.
  std::optional<MonotonicDuration> leaving_for = {};
};

struct Culprit {
  std::string worker_id;
  std::string reason;
};

std::vector<Culprit> FindCulprits(std::span<const WatchedTrainer> trainers,
                                  const HangLimits& limits);

// Every one of `members` waits for others, or for the coordinator, longer than it can.
bool AllWaitTooLong(std::span<const WatchedTrainer> members, const HangLimits& limits);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_HANG_DETECTOR_H_
