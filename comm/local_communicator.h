// A communicator whose ranks are threads of one process, with faults on demand. For tests.
//
// Whichever rank comes second to a transfer copies it, so there are no threads in here. All methods
// may be called from any thread.
#ifndef ALBEF_COMM_LOCAL_COMMUNICATOR_H_
#define ALBEF_COMM_LOCAL_COMMUNICATOR_H_

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace albef {

class LocalGroup {
 public:
  explicit LocalGroup(int size);
  ~LocalGroup();  // after its communicators' last use

  // Valid as long as the group.
  Communicator& communicator(int rank);

  // Faults. Operations of a rank are counted from 0 over all lanes.
  //
  // The rank is lost as it starts that operation: its operations fail with `status`, and its peers
  // find it gone.
  void FailAt(int rank, int64_t operation, absl::Status status);
  // From that operation on the rank's transfers are held back, until it is released.
  void HoldAt(int rank, int64_t operation);
  void Release(int rank);
  // Waits until the rank has started that operation (and is held or lost there, if so arranged).
  void AwaitOperation(int rank, int64_t operation);

 private:
  struct State;
  class Rank;

  std::unique_ptr<State> state_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace albef

#endif  // ALBEF_COMM_LOCAL_COMMUNICATOR_H_
