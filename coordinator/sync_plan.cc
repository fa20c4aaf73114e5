#include "coordinator/sync_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/majority.h"

namespace albef {

SyncPlan PlanSync(std::span<const ParkedMember> members_by_rank) {
  SyncPlan plan;
  const auto is_usable = [](const ParkedMember& member) {
    return member.parked.has_state() && !member.is_distrusted;
  };
  for (const ParkedMember& member : members_by_rank) {
    if (is_usable(member)) {
      plan.iteration = std::max(plan.iteration.value_or(0), member.parked.iteration());
    }
  }
  const int num_members = static_cast<int>(members_by_rank.size());
  if (!plan.iteration.has_value()) {
    plan.source_loads = true;
    for (int rank = 1; rank < num_members; ++rank) plan.receiver_ranks.push_back(rank);
    return plan;
  }
  std::optional<int> source;
  for (int rank = 0; rank < num_members; ++rank) {
    const ParkedMember& member = members_by_rank[static_cast<size_t>(rank)];
    if (!is_usable(member) || member.parked.iteration() != *plan.iteration) continue;
    if (!source.has_value()) source = rank;
    if (member.parked.has_last_decision() &&
        member.parked.last_decision().iteration() == *plan.iteration - 1) {
      plan.decision = member.parked.last_decision();
    }
  }
  plan.source_rank = *source;
  for (int rank = 0; rank < num_members; ++rank) {
    const ParkedMember& member = members_by_rank[static_cast<size_t>(rank)];
    const bool is_there = member.parked.iteration() == *plan.iteration;
    const bool can_follow = member.parked.iteration() == *plan.iteration - 1 &&
                            member.parked.holds_iteration() && plan.decision.has_value();
    if (!is_usable(member) || !(is_there || can_follow)) plan.receiver_ranks.push_back(rank);
  }
  return plan;
}

DigestComparison CompareDigests(std::span<const v1::Synced> synced_by_rank) {
  std::map<std::pair<int64_t, std::string>, std::vector<int>> ranks_by_state;
  for (size_t rank = 0; rank < synced_by_rank.size(); ++rank) {
    const v1::Synced& synced = synced_by_rank[rank];
    ranks_by_state[{synced.iteration(), synced.digest()}].push_back(static_cast<int>(rank));
  }
  DigestComparison comparison;
  comparison.are_equal = ranks_by_state.size() <= 1;
  if (comparison.are_equal) return comparison;
  std::vector<std::string> parts;
  for (const auto& [state, ranks] : ranks_by_state) {
    parts.push_back(fmt::format("ranks {} have {} at step {}", fmt::join(ranks, ","),
                                absl::BytesToHexString(state.second), state.first));
  }
  comparison.description = fmt::format("{}", fmt::join(parts, "; "));
  comparison.minority_ranks = MinorityRanks(ranks_by_state);
  return comparison;
}

}  // namespace albef
