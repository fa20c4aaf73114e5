// Training state from one worker to others, and the digest by which workers know that they hold the
// same (design §6, Between generations).
#ifndef ALBEF_WORKER_STATE_TRANSFER_H_
#define ALBEF_WORKER_STATE_TRANSFER_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/digest.h"
#include "comm/communicator.h"
#include "model/train_state.h"

namespace albef {

struct StateTransfer {
  int source = 0;  // rank
  std::vector<int> receivers = {};
};

// Gives the state of the source to the receivers. All ranks call it, those too that neither give
// nor receive: operations of a communicator are collective. Returns when the transfers of this rank
// are done, as far as the communicator knows. Errors are the communicator's; after one the state is
// what it was before.
absl::Status TransferState(TrainState& state, const StateTransfer& transfer,
                           Communicator& communicator);

// The digest that a checkpoint of this state would have.
absl::StatusOr<Hash128> DigestOf(const TrainState& state, int num_threads);

}  // namespace albef

#endif  // ALBEF_WORKER_STATE_TRANSFER_H_
