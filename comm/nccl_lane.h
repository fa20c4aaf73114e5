// One lane of an NcclCommunicator: an NCCL communicator of its own, with a stream and a thread.
//
//  1. The thread alone calls NCCL for the lane, which wants one thread at a time. Nothing it calls
//     blocks: the NCCL communicator is a non-blocking one.
//  2. It connects, then hands one operation after the other to NCCL, each once NCCL says that the
//     one before is in the stream; until then the stream does not hold it and nothing may be
//     recorded behind it.
//  3. Meanwhile it watches: completed operations end with OK; an error of NCCL's or of the device
//     fails the group, under the name of the oldest operation and of the ranks it waits for.
//  4. When the group has failed, for whatever reason, the thread aborts the NCCL communicator, sees
//     the stream run dry, and ends. The status of the group is what everything fails with.
//
// NCCL itself does not notice a peer that died on the same machine: the group's connections do.
//
// All methods may be called from any thread.
#ifndef ALBEF_COMM_NCCL_LANE_H_
#define ALBEF_COMM_NCCL_LANE_H_

#include <torch/types.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/mesh_group.h"
#include "comm/nccl_api.h"
#include "comm/stream_device.h"
#include "comm/work.h"

namespace albef {

class NcclLane {
 public:
  struct Options {
    NcclApi nccl = {};
    std::shared_ptr<StreamDevice> device = {};
    std::shared_ptr<MeshGroup> group = {};
    NcclUniqueId id = {};
  };

  explicit NcclLane(Options options) : options_(std::move(options)) {}

  // The thread's life, until the group has failed. Called once.
  void Run();

  // OK once connected, else the group's status or DEADLINE_EXCEEDED.
  absl::Status AwaitConnected(std::chrono::steady_clock::time_point deadline);

  // Checked transfers, none of them empty.
  Work Exchange(std::string name, const std::vector<Communicator::Transfer>& sends,
                const std::vector<Communicator::Transfer>& receives);
  Work Sum(std::string name, const torch::Tensor& values, NcclType type);

  // Everything pending fails now, as does what comes. For a group that has failed.
  void FailPending(const absl::Status& failure);

  // False: the thread still runs. Afterwards no tensor is written any more.
  bool AwaitEnd(std::chrono::steady_clock::time_point deadline);

  Communicator::Traffic traffic() const;

 private:
  using Clock = std::chrono::steady_clock;

  // What NCCL takes in one call.
  struct Group {
    std::vector<Communicator::Transfer> sends = {};
    std::vector<Communicator::Transfer> receives = {};
  };
  struct Job {
    std::shared_ptr<Operation> operation = {};
    std::vector<int> peers = {};     // of the operation's transfers
    std::vector<Group> groups = {};  // one after the other
    torch::Tensor sum = {};          // to be summed over all ranks, instead of groups
    NcclType sum_type = NcclType::kInt8;
    std::unique_ptr<StreamEvent> start = {};
    std::unique_ptr<StreamEvent> end = {};  // once NCCL has put everything into the stream
    size_t num_enqueued = 0;                // groups
  };

  Work Post(std::unique_ptr<Job> job);
  std::vector<Group> Divide(const std::vector<Communicator::Transfer>& sends,
                            const std::vector<Communicator::Transfer>& receives) const;

  // Below: of the thread.
  absl::Status Serve();
  // Hands over the next piece of work. Both return whether something has moved.
  absl::StatusOr<bool> Advance();
  absl::StatusOr<bool> Complete();
  absl::Status TakeJob();
  absl::Status Enqueue(const Job& job) const;
  void Pause(bool has_moved);
  // OK where NCCL has accepted a call.
  absl::Status Check(NcclResult result) const;
  absl::Status Named(const absl::Status& failure) const;
  void Release();
  bool StreamRunsDry() const;

  const Options options_;
  NcclHandle handle_ = nullptr;
  std::unique_ptr<WorkStream> stream_;
  bool in_progress_ = false;  // NCCL has not yet done what it was told last
  Job* launching_ = nullptr;  // the newest of launched_, until it is wholly in the stream
  Clock::time_point last_move_ = Clock::now();

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::deque<std::unique_ptr<Job>> launched_;  // in front only taken by the thread
  bool is_woken_ = false;
  bool is_connected_ = false;
  bool has_ended_ = false;
  absl::Status failure_;
  Communicator::Traffic traffic_;
};

}  // namespace albef

#endif  // ALBEF_COMM_NCCL_LANE_H_
