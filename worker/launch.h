// How this worker was started, and what follows from it: by mpirun, by srun, or by hand.
#ifndef ALBEF_WORKER_LAUNCH_H_
#define ALBEF_WORKER_LAUNCH_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/mpi_bootstrap.h"

namespace albef {

struct Launch {
  int64_t order = 0;             // −1: by hand, with a coordinator that is there already
  int64_t expected_workers = 0;  // started together with this one, itself included; 0: not known
  int64_t local_rank = 0;        // among those started together on this machine
  bool spans_hosts = false;
  // Terms up to this one are of earlier starts.
  int64_t stale_term = 0;
  int exit_code = 0;        // not 0: not all processes of this start can work
  std::string reason = {};  // of exit_code, where it is another process that cannot
};

// The environment, for the tests' sake as a function from names to values; nullptr where unset.
using Environment = std::function<const char*(const char*)>;

// From the facts that mpirun's processes have exchanged.
Launch LaunchedByMpirun(const BootstrapFacts& facts);

// By the environment that srun made, or by hand. INVALID_ARGUMENT for numbers that are none.
// `has_coordinator`: the worker was told where one is. `newest_term`: left by earlier starts, as
// far as this process can know.
absl::StatusOr<Launch> LaunchedOtherwise(const Environment& environment, bool has_coordinator,
                                         int64_t newest_term);

}  // namespace albef

#endif  // ALBEF_WORKER_LAUNCH_H_
