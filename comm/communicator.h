// What the workers of one generation say to each other while they train (design §5).
//
// A communicator joins `size` ranks for the life of one generation. Operations are collective: on
// each lane every rank starts the same ones in the same order, and they complete on their own, in
// any order. Nothing hangs and nothing ends the process: when a peer is lost, when ranks disagree
// about an operation, or on Abort(), all pending and all later operations of this rank fail with
// one status, and the peers see this rank as lost. There is no way back but a new communicator.
//
// Tensors are contiguous and on device(). They are kept alive by the operation; received ones are
// written and sent ones read until its Wait() has returned OK. After a failure their contents are
// unspecified, but nothing is written to them any more once Abort() has returned.
//
// All methods may be called from any thread; the order of operations on a lane is the order in
// which the calls begin, so each lane belongs to one thread at a time.
#ifndef ALBEF_COMM_COMMUNICATOR_H_
#define ALBEF_COMM_COMMUNICATOR_H_

#include <torch/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/lane.h"
#include "comm/work.h"

namespace albef {

class Communicator {
 public:
  // A tensor to or from another rank. Between two ranks tensors are matched by their order; empty
  // ones are left out.
  struct Transfer {
    int peer = 0;
    torch::Tensor tensor;
  };

  // Bytes of tensors handed to and taken from peers by operations that completed.
  struct Traffic {
    int64_t bytes_sent = 0;
    int64_t bytes_received = 0;
  };

  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual torch::Device device() const = 0;

  // All-to-all with any number of tensors of any size per pair; each side knows all sizes. `name`
  // stands in errors.
  virtual Work Exchange(Lane lane, std::string name, std::vector<Transfer> sends,
                        std::vector<Transfer> receives) = 0;

  // Replaces `values` by their sums over all ranks, added in an order that the transport chooses:
  // all ranks get the same bits, but not those of another number of ranks. For large tensors where
  // that does not matter. UNIMPLEMENTED unless the transport adds by itself.
  virtual Work Sum(Lane lane, std::string name, const torch::Tensor& values);

  // All pending and later operations return `reason` (which must be an error), now.
  virtual void Abort(absl::Status reason) = 0;

  // OK while operations can succeed, else why they cannot.
  virtual absl::Status status() const = 0;

  virtual Traffic traffic() const = 0;

  // Rank r's `own` arrives in everybody's gathered[r], which has its size; sizes of different ranks
  // may differ. gathered[rank()] may be `own` itself, else it becomes a copy.
  Work AllGather(Lane lane, std::string name, const torch::Tensor& own,
                 const std::vector<torch::Tensor>& gathered);

 protected:
  // INVALID_ARGUMENT where a peer is no other rank, or a tensor not contiguous or elsewhere.
  absl::Status Check(const std::vector<Transfer>& transfers) const;
};

}  // namespace albef

#endif  // ALBEF_COMM_COMMUNICATOR_H_
