// The training state's way to and from checkpoints: shards snapshotted between two steps and
// written in the background, and restoring (design §7).
#ifndef ALBEF_WORKER_CHECKPOINTING_H_
#define ALBEF_WORKER_CHECKPOINTING_H_

#include <torch/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/store.h"
#include "model/train_state.h"
#include "proto/control.pb.h"

namespace albef {

// Writes this worker's shard of one checkpoint after the other, on a thread of its own. At most one
// is under way, so that no more than one snapshot is held; its memory is kept for the next one, as
// new pages cost more time than copying. Used from the training thread only.
class ShardWriter {
 public:
  // Whose shard it is.
  struct Place {
    int64_t term = 0;
    int64_t generation = 0;
    int shard_index = 0;
    int num_shards = 1;
  };
  // Called on the writing thread, once per Take().
  using Callback = std::function<void(const v1::ShardWritten&)>;

  // `store` must outlive it.
  ShardWriter(CheckpointStore* store, Callback done);

  // Waits until what was taken is written and reported.
  ~ShardWriter();

  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // Copies the shard's part of the state to host memory and hands it to the thread, waiting for the
  // one before it where that is not written yet. `info` is completed with the state's counters. The
  // next worker's part is hashed, so that two workers vouch for every byte of a checkpoint.
  void Take(const TrainState& state, CheckpointInfo info, const Place& place, std::string reason);

  // Returns when nothing is being written.
  void Wait();

  // What became of the newest Take(); nothing while it is being written or was none.
  std::optional<v1::ShardWritten> newest() const;

 private:
  struct Job;

  void Run();
  v1::ShardWritten Write(const Job& job) const;

  CheckpointStore* const store_;
  const Callback done_;
  torch::Tensor memory_;  // of the snapshot; the thread reads it while is_busy_
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::unique_ptr<Job> job_;
  bool is_busy_ = false;
  bool is_stopping_ = false;
  std::optional<v1::ShardWritten> newest_;

  std::thread thread_;  // last: uses all of the above
};

// Sets `state` to a checkpoint. INVALID_ARGUMENT names what does not fit the model.
absl::Status RestoreState(const LoadedCheckpoint& checkpoint, TrainState& state);

}  // namespace albef

#endif  // ALBEF_WORKER_CHECKPOINTING_H_
