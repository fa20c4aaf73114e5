// The communicator of workers on GPUs: tensors through NCCL (design §5).
//
// The members first meet in a MeshGroup, as workers on CPUs do. It carries NCCL's ids, which rank 0
// makes anew for every generation, so they pass no third process and no disk; and it stays, because
// its connections tell at once that a peer has died, which NCCL may never notice. Whatever ends the
// one ends the other: MeshServer::Leave() is also here the way out of a generation.
//
// Each lane is an NCCL communicator of its own, with a stream and a thread (comm/nccl_lane.h). An
// operation starts after what the caller's current stream holds when it is called. A Wait() waits
// on the host; work that is queued after it, on any stream, sees the result.
//
// NCCL does not compare sizes. Ranks that disagree about them may wait for each other until the
// coordinator, which sees that, ends the generation.
#ifndef ALBEF_COMM_NCCL_COMMUNICATOR_H_
#define ALBEF_COMM_NCCL_COMMUNICATOR_H_

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/mesh_group.h"
#include "comm/mesh_membership.h"
#include "comm/mesh_server.h"
#include "comm/nccl_api.h"
#include "comm/nccl_lane.h"
#include "comm/stream_device.h"

namespace albef {

class NcclCommunicator : public Communicator {
 public:
  struct Options {
    NcclApi nccl = {};
    std::shared_ptr<StreamDevice> device = {};
    // For NCCL to connect, once all members have come.
    std::chrono::milliseconds connect_limit{120'000};
    // For an aborted communicator to let go of the device.
    std::chrono::milliseconds abort_patience{10'000};
  };

  // Waits for the members of a generation, and fails, as MeshServer::Join(). Beyond that
  // FAILED_PRECONDITION where ranks have different versions of NCCL, DEADLINE_EXCEEDED where NCCL
  // does not connect in time, and what NCCL reports.
  static absl::StatusOr<std::unique_ptr<Communicator>> Connect(MeshServer& server,
                                                               const MeshMembership& membership,
                                                               Options options);

  // Aborts: to the other ranks this one is lost.
  ~NcclCommunicator() override;

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  torch::Device device() const override { return options_.device->device(); }

  Work Exchange(Lane lane, std::string name, std::vector<Transfer> sends,
                std::vector<Transfer> receives) override;
  Work Sum(Lane lane, std::string name, const torch::Tensor& values) override;

  // Should NCCL not let go of the device within `abort_patience`, which only a fault of the driver
  // explains, that is logged and the lane left behind with all it holds.
  void Abort(absl::Status reason) override;

  absl::Status status() const override { return group_->status(); }
  Traffic traffic() const override;

 private:
  NcclCommunicator(std::shared_ptr<MeshGroup> group, Options options,
                   const std::vector<NcclUniqueId>& ids);

  NcclLane& lane(Lane which) const { return *lanes_[static_cast<size_t>(which)]; }

  const std::shared_ptr<MeshGroup> group_;
  const Options options_;
  std::vector<std::shared_ptr<NcclLane>> lanes_;  // also held by their threads
  std::vector<std::thread> threads_;
};

}  // namespace albef

#endif  // ALBEF_COMM_NCCL_COMMUNICATOR_H_
