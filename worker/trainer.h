// A whole pretraining run in one process: from a configuration and a run directory to the last
// checkpoint (design §4, §7–§11).
#ifndef ALBEF_WORKER_TRAINER_H_
#define ALBEF_WORKER_TRAINER_H_

#include "common/exit_code.h"
#include "coordinator/run_setup.h"

namespace albef {

// Trains until the run's target step, a stop signal (InstallStopSignals) or a failure; logs why it
// ended and records it in outcome.json. Whatever it was interrupted by, calling it again with the
// same options goes on from the newest valid checkpoint, and the final state has the same bits.
// Call once per process: LibTorch's threads and modes are process-wide.
ExitCode Train(RunRequest request);

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINER_H_
