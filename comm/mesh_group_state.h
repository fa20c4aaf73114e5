// What the handle of a group, its links and the server share.
//
// The handle may go while gRPC still works on streams; the state is then failed, and goes with the
// last of them. All methods may be called from any thread.
#ifndef ALBEF_COMM_MESH_GROUP_STATE_H_
#define ALBEF_COMM_MESH_GROUP_STATE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/lane.h"
#include "comm/mesh_group.h"
#include "comm/mesh_link.h"
#include "comm/mesh_membership.h"
#include "comm/work.h"

namespace albef {

class MeshGroupState : public MeshLink::Listener,
                       public std::enable_shared_from_this<MeshGroupState> {
 public:
  // The membership must be valid.
  static std::shared_ptr<MeshGroupState> Create(const MeshMembership& membership);

  int rank() const { return membership_.rank; }
  int size() const { return static_cast<int>(membership_.members.size()); }
  const std::shared_ptr<MeshLink>& link(int peer, Lane lane) const {
    return links_[static_cast<size_t>(peer)][static_cast<size_t>(lane)];
  }

  Work Exchange(Lane lane, std::string name, std::vector<MeshGroup::Send> sends,
                std::vector<MeshGroup::Receive> receives);

  // The first reason stays. No memory is written once this has returned.
  void Fail(const absl::Status& reason);
  absl::Status status() const;

  bool Connected() const;
  // Something that concerns the group has changed.
  void Notify();
  // Waits for the next Notify() after the one that made the count `seen`. Returns the count.
  int64_t AwaitChange(int64_t seen, std::chrono::steady_clock::time_point until);

  // Leaves in good order, if status() is OK, then ends everything.
  void Close();

  int64_t bytes_sent() const;
  int64_t bytes_received() const;

  void OnLost(const absl::Status& why) override { Fail(why); }
  void OnChange() override { Notify(); }

 private:
  explicit MeshGroupState(const MeshMembership& membership) : membership_(membership) {}

  std::vector<MeshLink*> Links() const;

  const MeshMembership membership_;
  std::vector<std::vector<std::shared_ptr<MeshLink>>> links_;  // by peer, lane; none for rank()
  uint64_t next_operation_[kNumLanes] = {};                    // belongs to the lane's caller

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status failure_;
  int64_t changes_ = 0;
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_GROUP_STATE_H_
