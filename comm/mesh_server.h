// Where a trainer meets the others: one per process, from its start to its end, over all
// generations (design §5; the protocol is in proto/mesh.proto).
//
//   MeshServer::Start(…)                     its address() goes to the coordinator
//   for each generation:
//     Join({epoch, rank, members})           → a MeshGroup of connected ranks
//     Leave(epoch, reason)                   from another thread, at any moment
//
// Join() takes as long as the members need to come; it dials those that cannot be reached again and
// again. Who decides that a member does not come is the coordinator, and Leave() is how this
// process hears of it. A member that died breaks its connections at once; one that is silent is
// taken for dead only after `silence_limit`, so that the coordinator can find out before who is
// stuck.
//
// All methods may be called from any thread.
#ifndef ALBEF_COMM_MESH_SERVER_H_
#define ALBEF_COMM_MESH_SERVER_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/mesh_group.h"
#include "comm/mesh_membership.h"

namespace albef {

class MeshServer {
 public:
  struct Options {
    std::string run_id = {};
    std::string token = {};                           // of the run; empty: none is asked for
    int64_t incarnation = 0;                          // of this process
    std::string host = "127.0.0.1";                   // to listen on, at a free port
    std::string advertised_host = {};                 // what others dial; empty: `host`
    std::chrono::milliseconds silence_limit{15'000};  // the run's hang limit + 5 s (design §5)
  };

  // UNAVAILABLE where it cannot listen on the host.
  static absl::StatusOr<std::unique_ptr<MeshServer>> Start(Options options);

  // Leaves the current generation and joins all threads. A connection to a process that is stopped
  // while data for it is under way holds this up until that process dies or the silence limit ends
  // the connection.
  ~MeshServer();

  // HOST:PORT for the others.
  const std::string& address() const;

  // Enters the generation, and leaves the one before if that has not been done. Waits until every
  // pair of ranks is connected. Fails with the reason given to Leave(); with FAILED_PRECONDITION
  // where the generation is not newer than all those entered or left before, or a peer refuses this
  // process as stale or unknown; with UNAUTHENTICATED for another token; with UNAVAILABLE where a
  // peer that was connected is lost, or where nothing answers at a peer's address for the silence
  // limit (unreachable_peers.h); with INVALID_ARGUMENT for a membership without this process.
  absl::StatusOr<std::unique_ptr<MeshGroup>> Join(const MeshMembership& membership);

  // Ends `epoch` and everything before it with `reason` (which must be an error): a Join() that
  // waits returns it, the group is aborted, peers that still come for it are refused.
  void Leave(MeshEpoch epoch, absl::Status reason);

 private:
  class State;
  explicit MeshServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_SERVER_H_
