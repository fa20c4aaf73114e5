// The training state's way to and from checkpoints: snapshots taken between two steps and written
// in the background, and restoring (design §7).
#ifndef ALBEF_WORKER_CHECKPOINTING_H_
#define ALBEF_WORKER_CHECKPOINTING_H_

#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/background_writer.h"
#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/store.h"
#include "model/train_state.h"

namespace albef {

// Owns the thread that writes. Used from the training thread only.
class Checkpointer {
 public:
  // `store` must outlive it.
  explicit Checkpointer(CheckpointStore* store) : writer_(store) {}

  // Copies the state to host memory and hands it to the writer, waiting for the checkpoint before
  // it where that is not written yet. `info` is completed with the state's counters.
  void Take(const TrainState& state, CheckpointInfo info);

  bool IsBusy() const { return writer_.IsBusy(); }

  // What became of earlier checkpoints since the last call.
  std::vector<CheckpointOutcome> TakeOutcomes();

  // Returns when nothing is being written.
  void Wait() { writer_.Wait(); }

 private:
  std::mutex mutex_;
  std::vector<CheckpointOutcome> outcomes_;  // guarded by mutex_
  BackgroundCheckpointWriter writer_;        // last: its thread uses all of the above
};

// Sets `state` to a checkpoint. INVALID_ARGUMENT names what does not fit the model.
absl::Status RestoreState(const LoadedCheckpoint& checkpoint, TrainState& state);

}  // namespace albef

#endif  // ALBEF_WORKER_CHECKPOINTING_H_
