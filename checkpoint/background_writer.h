// Checkpoints written while training goes on.
#ifndef ALBEF_CHECKPOINT_BACKGROUND_WRITER_H_
#define ALBEF_CHECKPOINT_BACKGROUND_WRITER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "formats/tensor.h"

namespace albef {

// A state that nobody changes any more.
struct CheckpointSnapshot {
  std::shared_ptr<const void> storage;  // what the tensors' bytes point into; released when written
  std::vector<NamedTensor> tensors;
  CheckpointInfo info;
  CheckpointStore::WriteOptions write_options;
};

struct CheckpointOutcome {
  int64_t iteration = 0;
  // The committed manifest, read back and verified; or why there is none: RESOURCE_EXHAUSTED for a
  // full disk, DATA_LOSS when what was written does not read back the same.
  absl::StatusOr<Manifest> manifest = absl::UnknownError("not written");
  double write_seconds = 0;
  double verify_seconds = 0;
  // The older checkpoints deleted after it; an error here leaves the new one valid.
  absl::StatusOr<std::vector<int64_t>> deleted = std::vector<int64_t>();
};

// Owns one thread that writes, verifies and then applies retention. At most one checkpoint is under
// way: Submit waits for the one before, so that no more than one snapshot is held and every
// submitted state is written. A failed write is reported and forgotten; the next boundary tries
// again with a newer state. All methods may be called from any thread but the callback's.
class BackgroundCheckpointWriter {
 public:
  // Called on the writer's thread, once per Submit.
  using Callback = std::function<void(const CheckpointOutcome&)>;

  // `store` must outlive the writer.
  explicit BackgroundCheckpointWriter(CheckpointStore* store);

  // Waits until what was submitted is written and reported.
  ~BackgroundCheckpointWriter();

  void Submit(CheckpointSnapshot snapshot, Callback done);

  // True from Submit until its callback has returned.
  bool IsBusy() const;

  // Returns when nothing is under way.
  void Wait();

 private:
  struct Job {
    CheckpointSnapshot snapshot;
    Callback done;
  };

  void Run();
  CheckpointOutcome Write(CheckpointSnapshot snapshot);

  CheckpointStore* const store_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::optional<Job> job_;
  bool is_busy_ = false;
  bool is_stopping_ = false;

  std::thread thread_;  // last: uses all of the above
};

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_BACKGROUND_WRITER_H_
