#include "worker/checkpointing.h"

#include <cstddef>
#include <cstring>
#include <list>
#include <span>
#include <utility>

#include "common/status_macros.h"
#include "model/tensor_io.h"

namespace albef {
namespace {

// One block of host memory for the whole state: filling it once is the pause that training notices.
struct Snapshot {
  std::vector<torch::Tensor> storage;
  std::vector<NamedTensor> tensors;
};

std::shared_ptr<const Snapshot> CopyToHost(const TrainState& state) {
  auto snapshot = std::make_shared<Snapshot>();
  for (const StateEntry& entry : state.State()) {
    torch::Tensor copy = entry.tensor.detach().to(torch::kCPU, entry.tensor.scalar_type(),
                                                  /*non_blocking=*/false, /*copy=*/true);
    snapshot->tensors.push_back({entry.key, ViewTensor(copy)});
    snapshot->storage.push_back(std::move(copy));
  }
  return snapshot;
}

}  // namespace

void Checkpointer::Take(const TrainState& state, CheckpointInfo info) {
  // Never two snapshots at once: at full size one takes 3.5 GB.
  writer_.Wait();
  const StepCounters& counters = state.counters();
  info.counters.iteration = counters.iteration;
  info.counters.updates = counters.updates;
  info.counters.ema_updates = counters.ema_updates;
  const std::shared_ptr<const Snapshot> snapshot = CopyToHost(state);
  writer_.Submit({.storage = snapshot,
                  .tensors = snapshot->tensors,
                  .info = std::move(info),
                  .write_options = {}},
                 [this](const CheckpointOutcome& outcome) {
                   const std::lock_guard lock(mutex_);
                   outcomes_.push_back(outcome);
                 });
}

std::vector<CheckpointOutcome> Checkpointer::TakeOutcomes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcomes_, {});
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
