#include "worker/checkpointing.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
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

std::vector<TensorInfo> Describe(std::span<const StateEntry> state) {
  std::vector<TensorInfo> tensors;
  for (const StateEntry& entry : state) {
    tensors.push_back({entry.key, ToDType(entry.tensor.scalar_type()), entry.tensor.sizes().vec()});
  }
  return tensors;
}

bool IsOnGpu(std::span<const StateEntry> state) {
  return std::ranges::any_of(state, [](const StateEntry& entry) { return entry.tensor.is_cuda(); });
}

// New pages are what takes the time: large ones where the system has them, touched by all threads.
torch::Tensor NewHostMemory(int64_t num_bytes, bool is_for_gpu) {
  // To page-locked memory a GPU copies at the bus's full speed.
  torch::Tensor memory =
      torch::empty({num_bytes}, torch::TensorOptions(torch::kByte).pinned_memory(is_for_gpu));
  void* begin = memory.data_ptr();
  size_t size = memory.nbytes();
  constexpr size_t kPageBytes = 4096;
  if (!is_for_gpu && std::align(kPageBytes, kPageBytes, begin, size) != nullptr) {
    ::madvise(begin, size, MADV_HUGEPAGE);
  }
  return memory;
}

// Copies a shard into `memory`, replaced where it has another size, and views it there.
std::vector<NamedTensor> CopyShard(const ShardPlan& plan, const Shard& shard,
                                   std::span<const StateEntry> state, torch::Tensor& memory) {
  int64_t num_bytes = 0;
  for (const ShardEntry& entry : shard.entries) {
    num_bytes += static_cast<int64_t>(entry.end - entry.begin);
  }
  const bool is_on_gpu = IsOnGpu(state);
  if (!memory.defined() || memory.numel() != num_bytes) {
    memory.reset();
    memory = NewHostMemory(num_bytes, is_on_gpu);
  }
  std::vector<NamedTensor> tensors;
  int64_t offset = 0;
  auto entry = shard.entries.begin();
  for (TensorInfo& info : DescribeShard(plan, shard)) {
    const int64_t size = static_cast<int64_t>(entry->end - entry->begin);
    const torch::Tensor copy = memory.narrow(0, offset, size);
    copy.copy_(state[entry->tensor_index]
                   .tensor.detach()
                   .reshape(-1)
                   .view(torch::kByte)
                   .narrow(0, static_cast<int64_t>(entry->begin), size),
               /*non_blocking=*/true);
    tensors.push_back({.name = std::move(info.name),
                       .tensor = {.dtype = info.dtype,
                                  .shape = std::move(info.shape),
                                  .bytes = ViewTensor(copy).bytes}});
    offset += size;
    ++entry;
  }
  if (is_on_gpu) torch::cuda::synchronize();
  return tensors;
}

// Hashes of a shard's blocks, in the order of its file.
std::vector<Hash128> HashShard(const ShardPlan& plan, const Shard& shard,
                               std::span<const StateEntry> state) {
  torch::Tensor memory;
  std::vector<NamedTensor> tensors;
  if (IsOnGpu(state)) {
    tensors = CopyShard(plan, shard, state, memory);
  } else {
    for (const StateEntry& entry : state) tensors.push_back({entry.key, ViewTensor(entry.tensor)});
    tensors = ShardTensors(plan, shard, tensors);
  }
  std::vector<std::span<const std::byte>> pieces;
  for (const NamedTensor& tensor : tensors) pieces.push_back(tensor.tensor.bytes);
  return HashBlocks(pieces, at::get_num_threads());
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
  std::vector<NamedTensor> tensors;  // of the shard, in memory_
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
  const std::vector<StateEntry> entries = state.State();
  absl::StatusOr<ShardPlan> plan = PlanShards(Describe(entries), place.num_shards);
  TORCH_CHECK(plan.ok(), "checkpoint: ", std::string(plan.status().message()));
  job->plan = *std::move(plan);
  const auto shard = [&](int index) -> const Shard& {
    return job->plan.shards[static_cast<size_t>(index)];
  };
  job->tensors = CopyShard(job->plan, shard(place.shard_index), entries, memory_);

  v1::ShardWritten& written = job->written;
  written.set_step(counters.iteration);
  written.set_term(place.term);
  written.set_generation(place.generation);
  written.set_shard_index(place.shard_index);
  written.set_num_shards(place.num_shards);
  written.set_reason(std::move(reason));
  if (place.num_shards > 1) {
    const int next = (place.shard_index + 1) % place.num_shards;
    for (const Hash128& hash : HashShard(job->plan, shard(next), entries)) {
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
