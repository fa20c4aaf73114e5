// Which peers could not be reached, as part of the status that says so: whoever gets it through
// several hands can still tell them from a connection that broke.
#ifndef ALBEF_COMM_UNREACHABLE_PEERS_H_
#define ALBEF_COMM_UNREACHABLE_PEERS_H_

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace albef {

struct UnreachablePeer {
  int rank = 0;
  std::string address = {};

  bool operator==(const UnreachablePeer&) const = default;
};

// UNAVAILABLE, with the remedy. `peers` must not be empty.
absl::Status UnreachableError(std::span<const UnreachablePeer> peers,
                              std::chrono::milliseconds limit);

// Their ranks; empty for any other status.
std::vector<int> UnreachableRanks(const absl::Status& status);

}  // namespace albef

#endif  // ALBEF_COMM_UNREACHABLE_PEERS_H_
