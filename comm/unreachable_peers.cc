#include "comm/unreachable_peers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace albef {
namespace {

constexpr char kPayload[] = "albef.unreachable_ranks";

}  // namespace

absl::Status UnreachableError(std::span<const UnreachablePeer> peers,
                              std::chrono::milliseconds limit) {
  std::vector<int> ranks;
  std::vector<std::string> names;
  for (const UnreachablePeer& peer : peers) {
    ranks.push_back(peer.rank);
    names.push_back(fmt::format("rank {} at {}", peer.rank, peer.address));
  }
  absl::Status status = absl::UnavailableError(fmt::format(
      "peer {} cannot be reached for {:.1f} s: does the network between the hosts let it through, "
      "and is it the right address of that host (--advertise)?",
      fmt::join(names, ", "), std::chrono::duration<double>(limit).count()));
  status.SetPayload(kPayload, absl::Cord(absl::StrJoin(ranks, ",")));
  return status;
}

std::vector<int> UnreachableRanks(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  std::vector<int> ranks;
  if (!payload.has_value()) return ranks;
  for (const absl::string_view text : absl::StrSplit(std::string(*payload), ',')) {
    int rank = 0;
    if (absl::SimpleAtoi(text, &rank)) ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace albef
