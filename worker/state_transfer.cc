#include "worker/state_transfer.h"

#include <fmt/format.h>

#include <utility>

#include "common/status_macros.h"
#include "model/tensor_io.h"

namespace albef {
namespace {

constexpr char kOperation[] = "training state";

}  // namespace

absl::Status SendState(const TrainState& state, const std::vector<int>& receivers,
                       Communicator& communicator) {
  std::vector<Communicator::Transfer> sends;
  for (const StateEntry& entry : state.State()) {
    const torch::Tensor tensor = entry.tensor.to(communicator.device());
    for (const int receiver : receivers) sends.push_back({.peer = receiver, .tensor = tensor});
  }
  return communicator.Exchange(Lane::kMain, kOperation, std::move(sends), {}).Wait();
}

absl::Status ReceiveState(TrainState& state, int source, Communicator& communicator) {
  std::vector<StateEntry> entries = state.State();
  std::vector<Communicator::Transfer> receives;
  for (StateEntry& entry : entries) {
    entry.tensor = torch::empty_like(entry.tensor, communicator.device());
    receives.push_back({.peer = source, .tensor = entry.tensor});
  }
  RETURN_IF_ERROR(communicator.Exchange(Lane::kMain, kOperation, {}, std::move(receives)).Wait());
  std::vector<NamedTensor> tensors;
  for (StateEntry& entry : entries) {
    entry.tensor = entry.tensor.cpu();
    tensors.push_back({entry.key, ViewTensor(entry.tensor)});
  }
  return state.Restore(tensors, fmt::format("state of rank {}", source));
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
