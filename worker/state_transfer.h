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

// Hands the state to the ranks in `receivers`; returns when they have it, as far as the
// communicator knows. Errors are the communicator's.
absl::Status SendState(const TrainState& state, const std::vector<int>& receivers,
                       Communicator& communicator);

// Takes over the state of rank `source`, which calls SendState. After an error the state is what it
// was before.
absl::Status ReceiveState(TrainState& state, int source, Communicator& communicator);

// The digest that a checkpoint of this state would have.
absl::StatusOr<Hash128> DigestOf(const TrainState& state, int num_threads);

}  // namespace albef

#endif  // ALBEF_WORKER_STATE_TRANSFER_H_
