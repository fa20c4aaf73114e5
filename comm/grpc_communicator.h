// The communicator of workers on CPUs: tensors over gRPC streams between trainers (design §5).
//
// Safe as every Communicator is; the connections belong to the process's MeshServer.
#ifndef ALBEF_COMM_GRPC_COMMUNICATOR_H_
#define ALBEF_COMM_GRPC_COMMUNICATOR_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/mesh_group.h"
#include "comm/mesh_membership.h"
#include "comm/mesh_server.h"

namespace albef {

class GrpcCommunicator : public Communicator {
 public:
  // Waits for the members of a generation, and fails, as MeshServer::Join(). MeshServer::Leave()
  // ends the wait, and later the communicator, from any thread.
  static absl::StatusOr<std::unique_ptr<Communicator>> Connect(MeshServer& server,
                                                               const MeshMembership& membership);

  explicit GrpcCommunicator(std::unique_ptr<MeshGroup> group) : group_(std::move(group)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  torch::Device device() const override { return torch::kCPU; }

  Work Exchange(Lane lane, std::string name, std::vector<Transfer> sends,
                std::vector<Transfer> receives) override;
  void Abort(absl::Status reason) override { group_->Abort(std::move(reason)); }
  absl::Status status() const override { return group_->status(); }
  Traffic traffic() const override { return {group_->bytes_sent(), group_->bytes_received()}; }

 private:
  const std::unique_ptr<MeshGroup> group_;
};

}  // namespace albef

#endif  // ALBEF_COMM_GRPC_COMMUNICATOR_H_
