#include "comm/grpc_communicator.h"

#include <span>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

std::shared_ptr<const torch::Tensor> Kept(const torch::Tensor& tensor) {
  return std::make_shared<const torch::Tensor>(tensor);
}

std::span<std::byte> Bytes(const torch::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> GrpcCommunicator::Connect(
    MeshServer& server, const MeshMembership& membership) {
  ASSIGN_OR_RETURN(std::unique_ptr<MeshGroup> group, server.Join(membership));
  return std::make_unique<GrpcCommunicator>(std::move(group));
}

Work GrpcCommunicator::Exchange(Lane lane, std::string name, std::vector<Transfer> sends,
                                std::vector<Transfer> receives) {
  for (const auto* transfers : {&sends, &receives}) {
    if (absl::Status status = Check(*transfers); !status.ok()) {
      return Work::Failed(std::move(name), status);
    }
  }
  std::vector<MeshGroup::Send> from;
  for (const auto& [peer, tensor] : sends) from.push_back({peer, Bytes(tensor), Kept(tensor)});
  std::vector<MeshGroup::Receive> to;
  for (const auto& [peer, tensor] : receives) to.push_back({peer, Bytes(tensor), Kept(tensor)});
  return group_->Exchange(lane, std::move(name), std::move(from), std::move(to));
}

}  // namespace albef
