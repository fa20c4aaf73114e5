#include "worker/state_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "model/tensor_io.h"

namespace albef {
absl::Status TransferState(TrainState& state, const StateTransfer& transfer,
                           Communicator& communicator) {
  const std::vector<int>& receivers = transfer.receivers;
  const bool receives =
      std::find(receivers.begin(), receivers.end(), communicator.rank()) != receivers.end();
  std::vector<StateEntry> entries = state.State();
  std::vector<Communicator::Transfer> to, from;
  if (communicator.rank() == transfer.source) {
    for (const StateEntry& entry : entries) {
      const torch::Tensor tensor = entry.tensor.to(communicator.device());
      for (const int receiver : receivers) to.push_back({.peer = receiver, .tensor = tensor});
    }
  } else if (receives) {
    for (StateEntry& entry : entries) {
      entry.tensor = torch::empty_like(entry.tensor, communicator.device());
      from.push_back({.peer = transfer.source, .tensor = entry.tensor});
    }
  }
  RETURN_IF_ERROR(
      communicator.Exchange(Lane::kMain, "training state", std::move(to), std::move(from)).Wait());
  if (!receives) return absl::OkStatus();
  std::vector<NamedTensor> tensors;
  for (StateEntry& entry : entries) {
    entry.tensor = entry.tensor.cpu();
    tensors.push_back({entry.key, ViewTensor(entry.tensor)});
  }
  return state.Restore(tensors, fmt::format("state of rank {}", transfer.source));
}

absl::StatusOr<Hash128> DigestOf(const TrainState& state, int num_threads) {
  std::vector<torch::Tensor> storage;
  std::vector<NamedTensor> tensors;
  for (const StateEntry& entry : state.State()) {
    storage.push_back(entry.tensor.detach().cpu().contiguous());
    tensors.push_back({entry.key, ViewTensor(storage.back())});
  }
  return StateDigest(tensors, num_threads);
}

}  // namespace albef
