// The connected ranks of one generation, exchanging bytes in memory: what GrpcCommunicator is made
// of, without tensors.
//
// The promises are the Communicator's (comm/communicator.h). In addition a rank may leave in good
// order, by destroying its group while status() is OK: everything it has sent still arrives, and
// only operations that involve it fail at the others.
//
// All methods may be called from any thread; on each lane Exchange() is called by one at a time.
#ifndef ALBEF_COMM_MESH_GROUP_H_
#define ALBEF_COMM_MESH_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/lane.h"
#include "comm/work.h"

namespace albef {

class MeshGroupState;

class MeshGroup {
 public:
  // Memory for or from a peer; `owner` keeps it alive.
  struct Send {
    int peer = 0;
    std::span<const std::byte> bytes = {};
    std::shared_ptr<const void> owner = {};
  };
  struct Receive {
    int peer = 0;
    std::span<std::byte> bytes = {};
    std::shared_ptr<const void> owner = {};
  };

  explicit MeshGroup(std::shared_ptr<MeshGroupState> state);

  // Waits for the peers to have received what was sent, at most a second, unless the group has
  // failed. No memory is written any more afterwards, and none of a failed group is kept alive for
  // longer than it takes gRPC to let go of it.
  ~MeshGroup();

  MeshGroup(const MeshGroup&) = delete;
  MeshGroup& operator=(const MeshGroup&) = delete;

  int rank() const;
  int size() const;

  // Between two ranks memory is matched in order; empty spans are left out. Peers must be other
  // ranks.
  Work Exchange(Lane lane, std::string name, std::vector<Send> sends,
                std::vector<Receive> receives);

  // As Communicator::Abort(): afterwards nothing is written to memory.
  void Abort(absl::Status reason);

  absl::Status status() const;

  // Of the transfers that are done.
  int64_t bytes_sent() const;
  int64_t bytes_received() const;

 private:
  const std::shared_ptr<MeshGroupState> state_;
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_GROUP_H_
