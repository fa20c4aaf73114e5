// The training state that a process begins with: new weights, an imported checkpoint, or the run's
// own newest valid one.
#ifndef ALBEF_WORKER_INITIAL_STATE_H_
#define ALBEF_WORKER_INITIAL_STATE_H_

#include <torch/types.h>

#include <memory>

#include "absl/status/statusor.h"
#include "coordinator/run_log.h"
#include "coordinator/run_setup.h"
#include "model/train_state.h"

namespace albef {

// Does what setup.action says, and records what was loaded, ignored, quarantined or will be
// repeated.
absl::StatusOr<std::unique_ptr<TrainState>> MakeInitialState(const RunSetup& setup, RunLog& log,
                                                             torch::Device device);

// A state of the right shapes whose values are about to be replaced.
std::unique_ptr<TrainState> MakeBlankState(const RunSetup& setup, torch::Device device);

}  // namespace albef

#endif  // ALBEF_WORKER_INITIAL_STATE_H_
