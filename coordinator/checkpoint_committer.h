// Makes checkpoints of shards that the run's workers have written, in a thread of its own, and
// keeps the list of those that are there.
//
// A checkpoint is committed only while this coordinator's term is the newest; it is read back and
// verified before it counts; then old ones are let go.
#ifndef ALBEF_COORDINATOR_CHECKPOINT_COMMITTER_H_
#define ALBEF_COORDINATOR_CHECKPOINT_COMMITTER_H_

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/retention.h"
#include "checkpoint/store.h"
#include "coordinator/run_machine.h"
#include "coordinator/term.h"

namespace albef {

// What CheckpointStore::Commit needs, from what the writers of all shards said. INVALID_ARGUMENT
// for messages that do not fit together.
struct ReportedCheckpoint {
  ShardPlan plan;
  CheckpointInfo info;
  std::vector<ShardReport> reports;
};
absl::StatusOr<ReportedCheckpoint> ReadShardMessages(std::span<const v1::ShardWritten> shards);

// May be called from any thread.
class CheckpointCommitter {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    std::optional<Term> term = {};  // required
    // The generation whose unfinished checkpoints may still become whole.
    std::optional<int64_t> alive_generation = {};
  };

  // Lists what is there and removes what was left unfinished.
  static absl::StatusOr<std::unique_ptr<CheckpointCommitter>> Start(Options options);

  // Finishes the checkpoint that it is at.
  ~CheckpointCommitter();

  // Which checkpoints to keep; until then none is let go.
  void SetRetention(const RetentionPolicy& policy);

  // Newest first. Those of earlier terms were not verified again.
  std::vector<v1::Checkpoint> List() const;

  // `done` is called on the thread of this object.
  using Done = std::function<void(run_event::CheckpointFinished)>;
  void Commit(run_action::CommitCheckpoint checkpoint, Done done);
  void Discard(const PartialId& id);

 private:
  explicit CheckpointCommitter(Options options) : options_(std::move(options)) {}

  absl::Status OpenStore(const RetentionPolicy& policy);
  absl::Status Scan();
  absl::Status MayRename() const;
  void Push(std::function<void()> task);
  void Thread();
  run_event::CheckpointFinished Carry(const run_action::CommitCheckpoint& checkpoint);
  void Remember(v1::Checkpoint checkpoint);

  const Options options_;
  // Of the thread, once it runs.
  std::unique_ptr<CheckpointStore> store_;
  bool is_retention_known_ = false;
  std::optional<int64_t> committing_step_ = {};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_, as the rest
  std::vector<v1::Checkpoint> checkpoints_;  // newest first
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_CHECKPOINT_COMMITTER_H_
