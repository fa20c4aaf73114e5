#include "coordinator/checkpoint_committer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "checkpoint/catalogue.h"
#include "checkpoint/digest.h"
#include "checkpoint/loaded_checkpoint.h"
#include "common/clock.h"
#include "common/fault_point.h"
#include "common/file.h"
#include "common/log.h"
#include "common/resources.h"
#include "common/status_macros.h"
#include "coordinator/committed_checkpoint.h"
#include "formats/tensor.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHashBytes = 16;

absl::StatusOr<ShardReport> ReadShard(const v1::ShardWritten& shard) {
  if (shard.hash().size() != kHashBytes || shard.block_hashes().size() % kHashBytes != 0) {
    return absl::InvalidArgumentError(fmt::format(
        "shard {}: hashes of {} and {} bytes, which are no multiples of {}", shard.shard_index(),
        shard.hash().size(), shard.block_hashes().size(), kHashBytes));
  }
  ShardReport report{.file_name = shard.file_name(),
                     .header_bytes = shard.header_bytes(),
                     .num_bytes = shard.num_bytes(),
                     .hash = *HashFromBytes(shard.hash()),
                     .block_hashes = {}};
  const std::string_view blocks = shard.block_hashes();
  for (size_t begin = 0; begin < blocks.size(); begin += kHashBytes) {
    report.block_hashes.push_back(*HashFromBytes(blocks.substr(begin, kHashBytes)));
  }
  return report;
}

absl::StatusOr<std::vector<TensorInfo>> ReadTensors(const v1::CheckpointDescription& description) {
  std::vector<TensorInfo> tensors;
  for (const auto& tensor : description.tensors()) {
    const std::optional<DType> dtype = DTypeFromName(tensor.dtype());
    if (!dtype.has_value()) {
      return absl::InvalidArgumentError(
          fmt::format("tensor {}: unknown element type {}", tensor.name(), tensor.dtype()));
    }
    tensors.push_back({.name = tensor.name(),
                       .dtype = *dtype,
                       .shape = {tensor.shape().begin(), tensor.shape().end()}});
  }
  return tensors;
}

}  // namespace

absl::StatusOr<ReportedCheckpoint> ReadShardMessages(std::span<const v1::ShardWritten> shards) {
  ReportedCheckpoint reported;
  const v1::CheckpointDescription* description = nullptr;
  for (const v1::ShardWritten& shard : shards) {
    if (shard.has_description()) description = &shard.description();
    ASSIGN_OR_RETURN(ShardReport report, ReadShard(shard));
    reported.reports.push_back(std::move(report));
  }
  if (description == nullptr) {
    return absl::InvalidArgumentError("no writer of a shard described the state");
  }
  ASSIGN_OR_RETURN(std::vector<TensorInfo> tensors, ReadTensors(*description));
  ASSIGN_OR_RETURN(reported.plan, PlanShards(std::move(tensors), static_cast<int>(shards.size())));
  reported.info = {.counters = {.iteration = description->iteration(),
                                .updates = description->updates(),
                                .ema_updates = description->ema_updates(),
                                .epoch = description->epoch()},
                   .config_digest = description->config_digest(),
                   .virtual_ranks = description->virtual_ranks(),
                   .seed = description->seed(),
                   .facts = {description->facts().begin(), description->facts().end()}};
  return reported;
}

absl::StatusOr<std::unique_ptr<CheckpointCommitter>> CheckpointCommitter::Start(Options options) {
  std::unique_ptr<CheckpointCommitter> committer(new CheckpointCommitter(std::move(options)));
  RETURN_IF_ERROR(committer->OpenStore({}));
  RETURN_IF_ERROR(committer->Scan());
  committer->thread_ = std::thread([raw = committer.get()] { raw->Thread(); });
  return committer;
}

absl::Status CheckpointCommitter::OpenStore(const RetentionPolicy& policy) {
  CheckpointStore::Options options;
  options.root = options_.run_dir / "checkpoints";
  options.retention = policy;
  options.num_threads = AvailableCores();
  options.may_rename = [this] { return MayRename(); };
  ASSIGN_OR_RETURN(store_, CheckpointStore::Open(std::move(options)));
  return absl::OkStatus();
}

absl::Status CheckpointCommitter::MayRename() const {
  if (committing_step_.has_value()) FaultPoint("commit_checkpoint", committing_step_);
  return options_.term->CheckCurrent();
}

CheckpointCommitter::~CheckpointCommitter() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

absl::Status CheckpointCommitter::Scan() {
  RETURN_IF_ERROR(options_.term->CheckCurrent());
  ASSIGN_OR_RETURN(const Catalogue catalogue, ScanCheckpoints(store_->root()));
  std::vector<PartialId> alive;
  for (const PartialId& id : catalogue.partial) {
    if (options_.alive_generation == static_cast<int64_t>(id.generation)) alive.push_back(id);
  }
  RETURN_IF_ERROR(store_->CleanUp(alive));
  for (const int64_t step : catalogue.committed) {
    absl::StatusOr<v1::Checkpoint> checkpoint = DescribeCheckpoint(store_->root(), step);
    if (checkpoint.ok()) {
      checkpoints_.push_back(*std::move(checkpoint));
    } else {
      spdlog::warn("checkpoint not listed reason={}",
                   LogValue(std::string(checkpoint.status().message())));
    }
  }
  return absl::OkStatus();
}

void CheckpointCommitter::SetRetention(const RetentionPolicy& policy) {
  Push([this, policy] {
    const absl::Status status = OpenStore(policy);
    is_retention_known_ = status.ok();
    if (!status.ok()) {
      spdlog::error("all checkpoints are kept reason={}", LogValue(std::string(status.message())));
    }
  });
}

std::vector<v1::Checkpoint> CheckpointCommitter::List() const {
  const std::lock_guard lock(mutex_);
  return checkpoints_;
}

void CheckpointCommitter::Commit(run_action::CommitCheckpoint checkpoint, Done done) {
  Push([this, checkpoint = std::move(checkpoint), done = std::move(done)] {
    done(Carry(checkpoint));
    if (!is_retention_known_) return;
    const absl::StatusOr<std::vector<int64_t>> deleted = store_->ApplyRetention();
    if (!deleted.ok()) {
      spdlog::warn("old checkpoints not deleted reason={}",
                   LogValue(std::string(deleted.status().message())));
      return;
    }
    const std::lock_guard lock(mutex_);
    std::erase_if(checkpoints_, [&](const v1::Checkpoint& entry) {
      return std::find(deleted->begin(), deleted->end(), entry.step()) != deleted->end();
    });
  });
}

void CheckpointCommitter::Discard(const PartialId& id) {
  Push([this, id] {
    if (!options_.term->CheckCurrent().ok()) return;
    if (const absl::Status status = store_->Discard(id); !status.ok()) {
      spdlog::warn("checkpoint remains folder={} reason={}", PartialName(id),
                   LogValue(std::string(status.message())));
    }
  });
}

void CheckpointCommitter::Push(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void CheckpointCommitter::Thread() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return is_closing_ || !tasks_.empty(); });
      if (is_closing_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

run_event::CheckpointFinished CheckpointCommitter::Carry(
    const run_action::CommitCheckpoint& checkpoint) {
  run_event::CheckpointFinished finished{.id = checkpoint.id};
  const auto commit = [&]() -> absl::StatusOr<v1::Checkpoint> {
    auto begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const ReportedCheckpoint reported, ReadShardMessages(checkpoint.shards));
    RETURN_IF_ERROR(options_.term->CheckCurrent());
    FaultPoint("manifest", checkpoint.id.step);
    committing_step_ = checkpoint.id.step;
    const absl::Status status =
        store_->Commit(checkpoint.id, reported.plan, reported.info, reported.reports).status();
    committing_step_.reset();
    RETURN_IF_ERROR(status);
    FaultPoint("checkpoint_committed", checkpoint.id.step);
    finished.commit_seconds = SecondsSince(begin);
    begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, store_->Load(checkpoint.id.step));
    finished.verify_seconds = SecondsSince(begin);
    return DescribeCheckpoint(store_->root(), checkpoint.id.step, loaded.manifest());
  };
  absl::StatusOr<v1::Checkpoint> committed = commit();
  finished.status = committed.status();
  if (committed.ok()) {
    finished.checkpoint = *committed;
    Remember(*std::move(committed));
  }
  return finished;
}

void CheckpointCommitter::Remember(v1::Checkpoint checkpoint) {
  const std::lock_guard lock(mutex_);
  std::erase_if(checkpoints_,
                [&](const v1::Checkpoint& entry) { return entry.step() == checkpoint.step(); });
  const auto place =
      std::find_if(checkpoints_.begin(), checkpoints_.end(),
                   [&](const v1::Checkpoint& entry) { return entry.step() < checkpoint.step(); });
  checkpoints_.insert(place, std::move(checkpoint));
}

}  // namespace albef
