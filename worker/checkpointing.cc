#include "worker/checkpointing.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <list>
#include <span>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/fault_point.h"
#include "common/status_macros.h"
#include "model/tensor_io.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// The state as files see it. Values of tensors that are not in `shard` may be missing.
struct HostState {
  std::vector<torch::Tensor> storage;
  std::vector<NamedTensor> tensors;
};

HostState ViewState(const TrainState& state) {
  HostState host;
  for (const StateEntry& entry : state.State()) {
    const torch::Tensor tensor = entry.tensor.detach().contiguous();
    NamedTensor view{.name = entry.key, .tensor = {}};
    view.tensor.dtype = ToDType(tensor.scalar_type());
    view.tensor.shape = tensor.sizes().vec();
    if (tensor.is_cpu()) view.tensor = ViewTensor(tensor);
    host.tensors.push_back(std::move(view));
    host.storage.push_back(tensor);
  }
  return host;
}

void SetDescription(const std::vector<TensorInfo>& tensors, const CheckpointInfo& info,
                    v1::CheckpointDescription& description) {
  for (const TensorInfo& tensor : tensors) {
    v1::CheckpointDescription::Tensor& entry = *description.add_tensors();
    entry.set_name(tensor.name);
    entry.set_dtype(std::string(DTypeName(tensor.dtype)));
    for (const int64_t size : tensor.shape) entry.add_shape(size);
  }
  description.set_iteration(info.counters.iteration);
  description.set_updates(info.counters.updates);
  description.set_ema_updates(info.counters.ema_updates);
  description.set_epoch(info.counters.epoch);
  description.set_config_digest(info.config_digest);
  description.set_virtual_ranks(info.virtual_ranks);
  description.set_seed(info.seed);
  for (const auto& [key, value] : info.facts) (*description.mutable_facts())[key] = value;
}

}  // namespace

struct ShardWriter::Job {
  ShardPlan plan;
  std::vector<std::vector<std::byte>> storage;
  std::vector<NamedTensor> tensors;  // of the shard, into storage
  v1::ShardWritten written;          // all but the result
};

ShardWriter::ShardWriter(CheckpointStore* store, Callback done)
    : store_(store), done_(std::move(done)), thread_([this] { Run(); }) {}

ShardWriter::~ShardWriter() {
  Wait();
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ShardWriter::Take(const TrainState& state, CheckpointInfo info, const Place& place,
                       std::string reason) {
  const Clock::time_point start = Clock::now();
  // Never two snapshots at once: at full size a lone worker's takes 3.5 GB.
  Wait();
  const StepCounters& counters = state.counters();
  info.counters.iteration = counters.iteration;
  info.counters.updates = counters.updates;
  info.counters.ema_updates = counters.ema_updates;
  FaultPoint("snapshot", counters.iteration);

  auto job = std::make_unique<Job>();
  HostState host = ViewState(state);
  absl::StatusOr<ShardPlan> plan = PlanShards(DescribeState(host.tensors), place.num_shards);
  TORCH_CHECK(plan.ok(), "checkpoint: ", std::string(plan.status().message()));
  job->plan = *std::move(plan);
  const auto view = [&](int index) {
    const Shard& shard = job->plan.shards[static_cast<size_t>(index)];
    for (const ShardEntry& entry : shard.entries) {
      torch::Tensor& tensor = host.storage[entry.tensor_index];
      if (tensor.is_cpu()) continue;
      tensor = tensor.cpu();
      host.tensors[entry.tensor_index].tensor = ViewTensor(tensor);
    }
    return ShardTensors(job->plan, shard, host.tensors);
  };
  job->tensors = view(place.shard_index);
  for (NamedTensor& tensor : job->tensors) {
    const std::span<const std::byte> live = tensor.tensor.bytes;
    tensor.tensor.bytes = job->storage.emplace_back(live.begin(), live.end());
  }

  v1::ShardWritten& written = job->written;
  written.set_step(counters.iteration);
  written.set_term(place.term);
  written.set_generation(place.generation);
  written.set_shard_index(place.shard_index);
  written.set_num_shards(place.num_shards);
  written.set_reason(std::move(reason));
  if (place.num_shards > 1) {
    std::vector<std::span<const std::byte>> pieces;
    for (const NamedTensor& tensor : view((place.shard_index + 1) % place.num_shards)) {
      pieces.push_back(tensor.tensor.bytes);
    }
    for (const Hash128& hash : HashBlocks(pieces, at::get_num_threads())) {
      *written.mutable_next_block_hashes() += HashToBytes(hash);
    }
  }
  if (place.shard_index == 0) {
    SetDescription(job->plan.tensors, info, *written.mutable_description());
  }
  written.set_stall_seconds(SecondsSince(start));
  {
    const std::lock_guard lock(mutex_);
    newest_.reset();
    job_ = std::move(job);
    is_busy_ = true;
  }
  changed_.notify_all();
}

void ShardWriter::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !is_busy_; });
}

std::optional<v1::ShardWritten> ShardWriter::newest() const {
  const std::lock_guard lock(mutex_);
  return newest_;
}

void ShardWriter::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return is_stopping_ || job_ != nullptr; });
    if (job_ == nullptr) return;
    const std::unique_ptr<Job> job = std::move(job_);
    lock.unlock();
    const v1::ShardWritten written = Write(*job);
    done_(written);
    lock.lock();
    newest_ = written;
    is_busy_ = false;
    changed_.notify_all();
  }
}

v1::ShardWritten ShardWriter::Write(const Job& job) const {
  const Clock::time_point start = Clock::now();
  v1::ShardWritten written = job.written;
  const auto write = [&]() -> absl::StatusOr<ShardReport> {
    ASSIGN_OR_RETURN(
        const std::filesystem::path partial,
        store_->CreatePartial({.step = written.step(),
                               .term = static_cast<uint64_t>(written.term()),
                               .generation = static_cast<uint64_t>(written.generation())}));
    FaultPoint("write", written.step());
    return WriteShard(partial, job.plan.shards[static_cast<size_t>(written.shard_index())],
                      job.tensors);
  };
  const absl::StatusOr<ShardReport> report = write();
  written.set_write_seconds(SecondsSince(start));
  if (!report.ok()) {
    written.set_error(std::string(report.status().message()));
    return written;
  }
  written.set_file_name(report->file_name);
  written.set_header_bytes(report->header_bytes);
  written.set_num_bytes(report->num_bytes);
  written.set_hash(HashToBytes(report->hash));
  for (const Hash128& hash : report->block_hashes)
    *written.mutable_block_hashes() += HashToBytes(hash);
  return written;
}

absl::Status RestoreState(const LoadedCheckpoint& checkpoint, TrainState& state) {
  std::vector<NamedTensor> tensors;
  std::list<std::vector<std::byte>> joined;  // tensors that shard borders cut
  for (const ManifestTensor& tensor : checkpoint.manifest().tensors) {
    const TensorInfo& info = tensor.info;
    ASSIGN_OR_RETURN(const auto pieces, checkpoint.Pieces(info.name));
    std::span<const std::byte> bytes;
    if (pieces.size() == 1) {
      bytes = pieces[0];
    } else {
      size_t size = 0;
      for (const auto& piece : pieces) size += piece.size();
      std::vector<std::byte>& whole = joined.emplace_back(size);
      RETURN_IF_ERROR(checkpoint.CopyTensor(info.name, whole));
      bytes = whole;
    }
    tensors.push_back({info.name, {.dtype = info.dtype, .shape = info.shape, .bytes = bytes}});
  }
  return state.Restore(tensors, checkpoint.directory().string());
}

}  // namespace albef
