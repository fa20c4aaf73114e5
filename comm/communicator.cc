#include "comm/communicator.h"

#include <torch/utils.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace albef {

Work Communicator::Sum(Lane, std::string name, const torch::Tensor&) {
  return Work::Failed(std::move(name),
                      absl::UnimplementedError("only NCCL sums in an order of its own"));
}

Work Communicator::AllGather(Lane lane, std::string name, const torch::Tensor& own,
                             const std::vector<torch::Tensor>& gathered) {
  const auto own_rank = static_cast<size_t>(rank());
  if (gathered.size() != static_cast<size_t>(size()) ||
      !gathered[own_rank].sizes().equals(own.sizes())) {
    return Work::Failed(std::move(name),
                        absl::InvalidArgumentError(absl::StrCat(
                            "expected one tensor for each of ", size(), " ranks, the one of rank ",
                            rank(), " in the shape of its contribution")));
  }
  std::vector<Transfer> sends, receives;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    sends.push_back({peer, own});
    receives.push_back({peer, gathered[static_cast<size_t>(peer)]});
  }
  if (!gathered[own_rank].is_alias_of(own) ||
      gathered[own_rank].storage_offset() != own.storage_offset()) {
    torch::NoGradGuard no_grad;
    gathered[own_rank].copy_(own);
  }
  return Exchange(lane, std::move(name), std::move(sends), std::move(receives));
}

absl::Status Communicator::Check(const std::vector<Transfer>& transfers) const {
  for (const auto& [peer, tensor] : transfers) {
    if (peer < 0 || peer >= size() || peer == rank()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", peer, " is no peer of rank ", rank(), " of ", size()));
    }
    if (!tensor.defined() || !tensor.is_contiguous() || tensor.device() != device()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the tensor for rank ", peer, " must be contiguous and on ", device().str()));
    }
  }
  return absl::OkStatus();
}

}  // namespace albef
