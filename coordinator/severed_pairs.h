// Pairs of workers whose trainers could not connect although both reach the coordinator, and how
// long they are kept apart before that is tried again: it costs the run a standstill. 10 s the
// first time, twice as long each time that it fails again, at most 10 minutes.
//
// Pure; not thread-safe.
#ifndef ALBEF_COORDINATOR_SEVERED_PAIRS_H_
#define ALBEF_COORDINATOR_SEVERED_PAIRS_H_

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/membership.h"

namespace albef {

class SeveredPairs {
 public:
  // One cannot reach the other.
  void Note(const std::string& one, const std::string& other, MonotonicTime now);

  // These are connected with each other.
  void OnConnected(std::span<const std::string> workers);

  void Forget(const std::string& worker);

  // Whom the worker is kept apart from.
  std::vector<std::string> PartnersOf(const std::string& worker, MonotonicTime now) const;

 private:
  struct Separation {
    MonotonicDuration duration = {};
    MonotonicTime until = {};
  };
  std::map<std::pair<std::string, std::string>, Separation> pairs_;  // the smaller id first
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_SEVERED_PAIRS_H_
