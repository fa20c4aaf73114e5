// RunMachine: checkpoints, of which every member writes a shard (design §7).
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "common/exit_code.h"
#include "coordinator/run_machine.h"

namespace albef {
namespace {

// Every shard stands in two workers' reports. Which of the two is wrong does not show here.
std::optional<std::string> FindDifference(const std::map<int, v1::ShardWritten>& shards) {
  const int num_shards = static_cast<int>(shards.size());
  for (const auto& [index, witness] : shards) {
    const int next = (index + 1) % num_shards;
    const auto entry = shards.find(next);
    const std::string& seen = witness.next_block_hashes();
    if (seen.empty() || entry == shards.end()) continue;
    const std::string& written = entry->second.block_hashes();
    if (seen == written) continue;
    constexpr size_t kHashBytes = 16;
    const auto differs = std::mismatch(seen.begin(), seen.end(), written.begin(), written.end());
    return fmt::format("the states of ranks {} and {} differ in block {} of shard {}", index, next,
                       static_cast<size_t>(differs.first - seen.begin()) / kHashBytes + 1, next);
  }
  return std::nullopt;
}

}  // namespace

void RunMachine::OnShardWritten(const v1::ShardWritten& written) {
  const int num_shards = written.num_shards(), index = written.shard_index();
  if (written.step() < 0 || written.term() < 0 || written.generation() < 0 || index < 0 ||
      index >= num_shards || HasEnded()) {
    return;
  }
  if (last_checkpoint_.has_value() && written.step() <= last_checkpoint_->step()) return;
  const PartialId id{.step = written.step(),
                     .term = static_cast<uint64_t>(written.term()),
                     .generation = static_cast<uint64_t>(written.generation())};
  const auto [entry, is_new] = pending_checkpoints_.try_emplace(id);
  PendingCheckpoint& pending = entry->second;
  if (is_new && written.generation() == generation_) pending.writers = members_;
  if (pending.is_committing) return;
  if (!written.error().empty()) {
    return CheckpointFailed(id, fmt::format("shard {}: {}", index, written.error()));
  }
  pending.shards[index] = written;
  if (pending.shards.size() < static_cast<size_t>(num_shards)) return;
  if (const std::optional<std::string> difference = FindDifference(pending.shards)) {
    CheckpointFailed(id, *difference);
    // Who of them is wrong shows when all compare the whole state, at the start of a generation.
    if (written.generation() == generation_ && IsGenerationAlive()) {
      Form(FormingCause::kDigest, fmt::format("{} at step {}", *difference, id.step));
    }
    return;
  }
  pending.is_committing = true;
  run_action::CommitCheckpoint commit{.id = id};
  for (auto& [shard_index, shard] : pending.shards) commit.shards.push_back(shard);
  actions_.push_back(std::move(commit));
}

void RunMachine::OnCheckpointFinished(const run_event::CheckpointFinished& finished) {
  const auto entry = pending_checkpoints_.find(finished.id);
  if (entry == pending_checkpoints_.end()) return;
  if (!finished.status.ok()) {
    return CheckpointFailed(finished.id, std::string(finished.status.message()));
  }
  const PendingCheckpoint pending = std::move(entry->second);
  pending_checkpoints_.erase(entry);
  double stall_s = 0, write_s = 0;
  for (const auto& [index, shard] : pending.shards) {
    stall_s = std::max(stall_s, shard.stall_seconds());
    write_s = std::max(write_s, shard.write_seconds());
  }
  const v1::Checkpoint& checkpoint = finished.checkpoint;
  Record({.kind = "checkpoint_committed",
          .reason = pending.shards.begin()->second.reason(),
          .facts = {{"step", checkpoint.step()},
                    {"path", checkpoint.path()},
                    {"state_digest", checkpoint.state_digest()},
                    {"size_bytes", checkpoint.size_bytes()},
                    {"shards", static_cast<int64_t>(pending.shards.size())},
                    {"stall_s", stall_s},
                    {"write_s", write_s},
                    {"commit_s", finished.commit_seconds},
                    {"verify_s", finished.verify_seconds}}});
  ++num_checkpoints_;
  if (last_checkpoint_.has_value() && checkpoint.step() < last_checkpoint_->step()) return;
  last_checkpoint_ = checkpoint;
  checkpoint_retry_at_.reset();
  if (checkpoint.step() >= checkpoint_wanted_from_) {
    pending_flags_ &= ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
  }
  // What is older and not whole yet is of no use any more.
  std::vector<PartialId> older;
  for (const auto& [id, other] : pending_checkpoints_) {
    if (id.step <= checkpoint.step() && !other.is_committing) older.push_back(id);
  }
  for (const PartialId& id : older) Discard(id);
}

void RunMachine::CheckpointFailed(const PartialId& id, const std::string& reason) {
  ++num_failed_checkpoints_;
  checkpoint_failure_ = reason;
  spdlog::warn("checkpoint of step {} failed, training goes on: {}", id.step, reason);
  Record({.kind = "checkpoint_failed", .reason = reason, .facts = {{"step", id.step}}});
  Discard(id);
  is_final_checkpoint_requested_ = false;
  pending_flags_ &= ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
  final_checkpoint_not_before_ = now_ + options_.final_checkpoint_retry;
  checkpoint_retry_at_ = now_ + options_.checkpoint_retry;
}

void RunMachine::DropCheckpointsOf(const RunWorker& worker) {
  if (!worker.trainer.has_value()) return;
  const GenerationMember writer{.worker_id = worker.id, .incarnation = worker.trainer->incarnation};
  std::vector<PartialId> dropped;
  for (const auto& [id, pending] : pending_checkpoints_) {
    const auto place = std::find(pending.writers.begin(), pending.writers.end(), writer);
    if (place == pending.writers.end()) continue;
    const int index = static_cast<int>(place - pending.writers.begin());
    if (!pending.is_committing && !pending.shards.contains(index)) dropped.push_back(id);
  }
  for (const PartialId& id : dropped) {
    Record({.kind = "checkpoint_dropped",
            .reason = fmt::format("{} is gone and had not written its shard", worker.host),
            .facts = {{"step", id.step}}});
    Discard(id);
    is_final_checkpoint_requested_ = false;
    pending_flags_ |= v1::FLAG_CHECKPOINT;
  }
}

void RunMachine::Discard(const PartialId& id) {
  // Who has taken this one must take another.
  checkpoint_raised_from_ = std::max(checkpoint_raised_from_, id.step + 1);
  pending_checkpoints_.erase(id);
  actions_.push_back(run_action::DiscardCheckpoint{id});
}

void RunMachine::WantCheckpoint() {
  pending_flags_ |= v1::FLAG_CHECKPOINT;
  if (phase_ == Phase::kRunning || phase_ == Phase::kPaused) RaiseFlags(v1::FLAG_CHECKPOINT);
}

void RunMachine::CheckCheckpointRetry() {
  if (!checkpoint_retry_at_.has_value() || now_ < *checkpoint_retry_at_) return;
  checkpoint_retry_at_.reset();
  WantCheckpoint();
}

bool RunMachine::IsHeldStateCommitted(int64_t iteration) {
  if (last_checkpoint_.has_value() && last_checkpoint_->step() >= iteration) return true;
  SetReason(fmt::format("committing the checkpoint of step {}", iteration));
  checkpoint_retry_at_.reset();  // from here on with another patience
  const bool is_under_way =
      std::any_of(pending_checkpoints_.begin(), pending_checkpoints_.end(),
                  [&](const auto& entry) { return entry.first.step == iteration; });
  if (is_under_way || is_final_checkpoint_requested_ || now_ < final_checkpoint_not_before_) {
    return false;
  }
  if (final_checkpoint_attempts_ == options_.max_final_checkpoint_attempts) {
    Fail(static_cast<int>(ExitCode::kStorage),
         fmt::format("the checkpoint of step {} cannot be written ({}); the newest one is {}; make "
                     "room, then run the same command again",
                     iteration, checkpoint_failure_,
                     last_checkpoint_.has_value()
                         ? fmt::format("of step {}", last_checkpoint_->step())
                         : std::string("none")));
    return false;
  }
  ++final_checkpoint_attempts_;
  is_final_checkpoint_requested_ = true;
  RaiseFlags(v1::FLAG_CHECKPOINT);
  return false;
}

}  // namespace albef
