// How the members of a new generation get the same state, and whether they have it. Pure.
//
// The newest iteration wins. A member one behind that still holds what the iteration needs applies
// the gate's decision about it; whoever has no usable state, or is further behind, receives it from
// the lowest rank that has the newest. If nobody has any, rank 0 loads or makes it.
#ifndef ALBEF_COORDINATOR_SYNC_PLAN_H_
#define ALBEF_COORDINATOR_SYNC_PLAN_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "proto/control.pb.h"

namespace albef {

struct ParkedMember {
  v1::Parked parked;
  bool is_distrusted = false;  // its state was found to differ from the others': it must receive
};

struct SyncPlan {
  int source_rank = 0;
  bool source_loads = false;
  std::vector<int> receiver_ranks;           // ascending
  std::optional<v1::GateDecision> decision;  // about the iteration before the newest state
  std::optional<int64_t> iteration;          // of the newest state; unset: source_loads
};

SyncPlan PlanSync(std::span<const ParkedMember> members_by_rank);

struct DigestComparison {
  bool are_equal = false;
  // Where they are not equal: the ranks that differ from what more than half of all have; empty
  // without such a majority.
  std::vector<int> minority_ranks;
  std::string description;  // "3 members have …, 1 has …"
};

DigestComparison CompareDigests(std::span<const v1::Synced> synced_by_rank);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_SYNC_PLAN_H_
