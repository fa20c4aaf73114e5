// The checkpoints of a run: RUN_DIR/checkpoints (design §7, names in catalogue.h).
//
// 1. A checkpoint is written into a .partial folder, every file and the folder synced, the manifest
//    last; then the folder is renamed to its step and the parent synced. A folder with a step's
//    name is therefore complete, whatever was killed when; what a crash leaves is a .partial folder
//    that CleanUp removes.
// 2. Nothing is believed when it is read: sizes, file hashes and the state digest are checked. A
//    damaged checkpoint is renamed aside, never deleted, and the one before it is used. Trouble
//    with storage itself (EIO, EMFILE …) is an error and says nothing about the checkpoint.
// 3. A write that fails leaves nothing of its own and takes nothing of others.
#ifndef ALBEF_CHECKPOINT_STORE_H_
#define ALBEF_CHECKPOINT_STORE_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/catalogue.h"
#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/manifest.h"
#include "checkpoint/output_file.h"
#include "checkpoint/retention.h"
#include "checkpoint/shards.h"
#include "formats/tensor.h"

namespace albef {

// May be called from any thread. Any number of processes may load; one at a time may commit, clean
// up and apply retention.
class CheckpointStore {
 public:
  struct Options {
    std::filesystem::path root;  // made if it does not exist
    RetentionPolicy retention;
    int num_threads = 1;  // for verification
    WriteFunction write = WriteAll;
    // Asked before a folder gets another name, or is deleted: an error (which is passed on) keeps
    // everything as it is. Unset: always.
    std::function<absl::Status()> may_rename = {};
  };

  struct WriteOptions {
    int num_shards = 1;
    uint64_t term = 0;
    uint64_t generation = 0;
  };

  struct LoadResult {
    std::optional<LoadedCheckpoint> checkpoint;  // nothing: there is no valid one
    // One message per damaged checkpoint met on the way, newest first: file, what is wrong, where
    // it was put.
    std::vector<std::string> quarantined;
  };

  // INVALID_ARGUMENT names the option that cannot be.
  static absl::StatusOr<std::unique_ptr<CheckpointStore>> Open(Options options);

  const std::filesystem::path& root() const { return options_.root; }

  // Steps of the committed checkpoints, newest first. Not verified.
  absl::StatusOr<std::vector<int64_t>> CommittedSteps() const;

  // Removes .partial folders except those of `alive`, and what an interrupted deletion left. For
  // the start of a run, by the process that commits.
  absl::Status CleanUp(std::span<const PartialId> alive = {});

  // Verifies from the newest down, quarantines the damaged, and returns the first that is whole.
  absl::StatusOr<LoadResult> LoadNewestValid();

  // Verifies one committed checkpoint; DATA_LOSS after quarantining it.
  absl::StatusOr<LoadedCheckpoint> Load(int64_t step);

  // Writes all shards of the checkpoint of step info.counters.iteration and commits it. A full disk
  // is RESOURCE_EXHAUSTED.
  absl::StatusOr<Manifest> Write(std::span<const NamedTensor> state, const CheckpointInfo& info,
                                 const WriteOptions& write_options);

  // The parts of Write, for shards that come from several processes: each calls CreatePartial and
  // WriteShard, one of them Commit (or Discard).
  absl::StatusOr<std::filesystem::path> CreatePartial(const PartialId& id);
  absl::StatusOr<Manifest> Commit(const PartialId& id, const ShardPlan& plan,
                                  const CheckpointInfo& info, std::span<const ShardReport> reports);
  absl::Status Discard(const PartialId& id);

  // Deletes what the policy lets go; returns the steps deleted, oldest first.
  absl::StatusOr<std::vector<int64_t>> ApplyRetention();

 private:
  explicit CheckpointStore(Options options) : options_(std::move(options)) {}

  std::filesystem::path StepPath(int64_t step) const { return options_.root / StepName(step); }

  // Verifies without touching anything; DATA_LOSS also for a folder that has another step's state.
  absl::StatusOr<LoadedCheckpoint> Verify(int64_t step) const;

  // Renames a step's folder to the first free "<name>.<why>-<k>".
  absl::StatusOr<std::filesystem::path> SetAside(int64_t step, std::string_view why);

  // DATA_LOSS that says what was wrong and where the folder went.
  absl::Status Quarantine(int64_t step, const absl::Status& damage);

  absl::Status WriteManifest(const std::filesystem::path& partial, const Manifest& manifest);
  absl::Status Publish(const PartialId& id, const Manifest& manifest);
  absl::Status Delete(int64_t step);
  absl::Status Rename(const std::filesystem::path& from, const std::filesystem::path& to);
  void MarkVerified(int64_t step);

  const Options options_;
  std::mutex mutex_;
  std::optional<int64_t> last_verified_;  // guarded by mutex_
};

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_STORE_H_
