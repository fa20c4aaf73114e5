#include "worker/coordinator_finder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "coordinator/run_token.h"
#include "coordinator/term.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

// Names the file of an outcome, whatever it says: two attempts may end in the same way.
std::string OutcomeIdentity(const fs::path& run_dir) {
  struct stat facts;
  if (::stat((run_dir / "outcome.json").c_str(), &facts) != 0) return "";
  return fmt::format("{} {} {}.{:09}", facts.st_ino, facts.st_size, facts.st_mtim.tv_sec,
                     facts.st_mtim.tv_nsec);
}

}  // namespace

RunDirectoryPast ReadRunDirectoryPast(const fs::path& run_dir) {
  RunDirectoryPast past{.newest_term = HighestTerm(run_dir).value_or(0),
                        .outcome_identity = OutcomeIdentity(run_dir)};
  if (const auto info = ReadCoordinatorFile(run_dir); info.ok()) {
    past.newest_term = std::max(past.newest_term, info->term);
  }
  return past;
}

CoordinatorSighting CoordinatorFinder::Look() {
  ++num_looks_;
  CoordinatorSighting sighting;
  sighting.newest_term = HighestTerm(options_.run_dir).value_or(0);
  sighting.pulse = ReadPulse(options_.run_dir);
  const absl::StatusOr<CoordinatorInfo> info = ReadCoordinatorFile(options_.run_dir);
  if (!info.ok()) {
    sighting.trouble = std::string(info.status().message());
  } else if (info->term <= options_.stale_term) {
    sighting.trouble = fmt::format("{} is of an earlier start (term {})",
                                   (options_.run_dir / "coordinator.json").string(), info->term);
  } else {
    sighting.file = *info;
    sighting.newest_term = std::max(sighting.newest_term, info->term);
    sighting.address = info->address;
  }
  if (!options_.external_address.empty() && (sighting.address.empty() || num_looks_ % 2 == 1)) {
    sighting.address = options_.external_address;
  }
  if (const std::string identity = OutcomeIdentity(options_.run_dir);
      !identity.empty() && identity != options_.past_outcome_identity) {
    if (auto outcome = ReadOutcome(options_.run_dir); outcome.ok()) {
      sighting.ended = *std::move(outcome);
    }
  }
  const absl::StatusOr<std::string> token = ReadRunToken(options_.run_dir);
  if (token.ok()) {
    sighting.authorization = AuthorizationOf(*token);
  } else if (!sighting.address.empty()) {
    // A coordinator makes it before it says where it is.
    sighting.address.clear();
    sighting.trouble = std::string(token.status().message());
  }
  return sighting;
}

}  // namespace albef
