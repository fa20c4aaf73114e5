// What mpirun knows and a worker needs, learnt before anything else happens in the process.
//
// MPI is used for that moment only: init, one exchange, finalize. From then on a dead process
// blocks nobody in MPI, and mpirun sees only processes that come and go (toolchain: init,
// broadcast, finalize at once is safe; a finalize that comes late waits for everybody).
#ifndef ALBEF_WORKER_MPI_BOOTSTRAP_H_
#define ALBEF_WORKER_MPI_BOOTSTRAP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace albef {

// What each process brings to the exchange.
struct BootstrapOffer {
  int exit_code = 0;        // not 0: it cannot start and the others should not wait for it
  int64_t newest_term = 0;  // that an earlier start has left in the run directory
  std::string host = {};    // real name of the machine
};

struct BootstrapFacts {
  int rank = 0;
  int size = 1;
  int local_rank = 0;        // among those on the same machine
  bool spans_hosts = false;  // the processes are on more than one machine
  int exit_code = 0;         // the highest of all offers
  int failed_rank = -1;      // one that offered it
  int64_t newest_term = 0;   // the highest of all offers
};

// Whether mpirun started this process. Elsewhere MPI_Init would start daemons of its own.
bool WasStartedByMpirun();

// Once per process, by a process that mpirun started, before any other thread, server or child
// exists, and in all processes of the job alike. INTERNAL where MPI reports trouble.
absl::StatusOr<BootstrapFacts> BootstrapWithMpi(const BootstrapOffer& offer);

}  // namespace albef

#endif  // ALBEF_WORKER_MPI_BOOTSTRAP_H_
