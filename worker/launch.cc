#include "worker/launch.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "common/status_macros.h"

namespace albef {
namespace {

absl::StatusOr<int64_t> ReadNumber(const Environment& environment, const char* name) {
  const char* text = environment(name);
  if (text == nullptr) return absl::InvalidArgumentError(fmt::format("{} is not set", name));
  int64_t number = 0;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, number);
  if (error != std::errc() || rest != end || number < 0) {
    return absl::InvalidArgumentError(
        fmt::format("{}=\"{}\" in the environment is no number of Slurm's", name, text));
  }
  return number;
}

}  // namespace

Launch LaunchedByMpirun(const BootstrapFacts& facts) {
  Launch launch{.order = facts.rank,
                .expected_workers = facts.size,
                .local_rank = facts.local_rank,
                .spans_hosts = facts.spans_hosts,
                .stale_term = facts.newest_term,
                .exit_code = facts.exit_code};
  if (facts.exit_code != 0) {
    launch.reason =
        fmt::format("rank {} of {} cannot start, see its message", facts.failed_rank, facts.size);
  }
  return launch;
}

absl::StatusOr<Launch> LaunchedOtherwise(const Environment& environment, bool has_coordinator,
                                         int64_t newest_term) {
  // A batch script has a SLURM_PROCID too, but no tasks beside it.
  const bool by_srun =
      environment("SLURM_PROCID") != nullptr && environment("SLURM_STEP_NUM_TASKS") != nullptr;
  if (by_srun) {
    Launch launch;
    ASSIGN_OR_RETURN(launch.order, ReadNumber(environment, "SLURM_PROCID"));
    ASSIGN_OR_RETURN(launch.expected_workers, ReadNumber(environment, "SLURM_STEP_NUM_TASKS"));
    if (environment("SLURM_LOCALID") != nullptr) {
      ASSIGN_OR_RETURN(launch.local_rank, ReadNumber(environment, "SLURM_LOCALID"));
    }
    if (environment("SLURM_STEP_NUM_NODES") != nullptr) {
      ASSIGN_OR_RETURN(const int64_t nodes, ReadNumber(environment, "SLURM_STEP_NUM_NODES"));
      launch.spans_hosts = nodes > 1;
    }
    // Others may have started theirs before this one looked, so what it sees may be of this start:
    // it takes any coordinator that answers.
    launch.stale_term = launch.order == 0 ? newest_term : 0;
    return launch;
  }
  if (has_coordinator) return Launch{.order = -1};
  return Launch{.order = 0, .expected_workers = 1, .stale_term = newest_term};
}

}  // namespace albef
