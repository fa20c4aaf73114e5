#include "comm/communicator.h"

#include <torch/utils.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

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

Work Communicator::Broadcast(Lane lane, std::string name, const torch::Tensor& tensor, int root) {
  if (root < 0 || root >= size()) {
    return Work::Failed(std::move(name), absl::InvalidArgumentError(absl::StrCat(
                                             "root ", root, " is no rank of ", size())));
  }
  if (rank() != root) return Exchange(lane, std::move(name), {}, {{root, tensor}});
  std::vector<Transfer> sends;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer != root) sends.push_back({peer, tensor});
  }
  return Exchange(lane, std::move(name), std::move(sends), {});
}

absl::StatusOr<std::vector<std::string>> Communicator::AllGatherRecords(Lane lane,
                                                                        const std::string& name,
                                                                        std::string_view record,
                                                                        Deadline deadline) {
  const auto bytes = torch::TensorOptions(torch::kByte).device(device());
  const auto numbers = torch::TensorOptions(torch::kLong).device(device());
  const torch::Tensor sizes_R1 = torch::zeros({size(), 1}, numbers);
  const torch::Tensor own_size = torch::full({1}, static_cast<int64_t>(record.size()), numbers);
  RETURN_IF_ERROR(
      AllGather(lane, absl::StrCat(name, " (sizes)"), own_size, sizes_R1.unbind(0)).Wait(deadline));

  const torch::Tensor sizes = sizes_R1.cpu();
  torch::Tensor own = torch::empty({static_cast<int64_t>(record.size())}, torch::kByte);
  if (!record.empty()) std::memcpy(own.data_ptr(), record.data(), record.size());
  own = own.to(device());
  std::vector<torch::Tensor> gathered;
  for (int peer = 0; peer < size(); ++peer) {
    gathered.push_back(peer == rank() ? own
                                      : torch::empty({sizes.data_ptr<int64_t>()[peer]}, bytes));
  }
  RETURN_IF_ERROR(AllGather(lane, name, own, gathered).Wait(deadline));

  std::vector<std::string> records;
  for (const torch::Tensor& tensor : gathered) {
    const torch::Tensor host = tensor.cpu();
    records.emplace_back(static_cast<const char*>(host.data_ptr()),
                         static_cast<size_t>(host.numel()));
  }
  return records;
}

absl::Status Communicator::AllReduce(Lane lane, const std::string& name,
                                     const torch::Tensor& values, ReduceOp op, Deadline deadline) {
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gathered;
  for (int peer = 0; peer < size(); ++peer) {
    gathered.push_back(peer == rank() ? values.clone() : torch::empty_like(values));
  }
  RETURN_IF_ERROR(
      AllGather(lane, name, gathered[static_cast<size_t>(rank())], gathered).Wait(deadline));
  torch::Tensor result = gathered[0];
  for (size_t peer = 1; peer < gathered.size(); ++peer) {
    switch (op) {
      case ReduceOp::kSum:
        result.add_(gathered[peer]);
        break;
      case ReduceOp::kMin:
        result = torch::minimum(result, gathered[peer]);
        break;
      case ReduceOp::kMax:
        result = torch::maximum(result, gathered[peer]);
        break;
    }
  }
  values.copy_(result);
  return absl::OkStatus();
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
