// The mean of all virtual ranks' gradients, as a step sees it. Two ways to get there: in tree order
// (comm/tree_reduction.h), or as the transport likes (comm/sum_reduction.h).
//
// One step:
//
//   for each hosted virtual rank, but those kept: backward into BeginLeaf(), where hooks may call
//                                                 MarkReady(); AddLeaf()
//   Finish()
//
// Where Finish() fails because a peer is gone, what was computed is not lost: Take() gives the sums
// for the reduction that does the step again.
//
// MarkReady() may be called from any thread, all else belongs to one.
#ifndef ALBEF_COMM_GRADIENT_REDUCTION_H_
#define ALBEF_COMM_GRADIENT_REDUCTION_H_

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/partial_sums.h"

namespace albef {

class GradientReduction {
 public:
  virtual ~GradientReduction() = default;

  // Whether a sum that was kept has the virtual rank's gradient already, so that this step leaves
  // it out.
  virtual bool Keeps(int64_t virtual_rank) const = 0;

  // Where the gradient of the next virtual rank is to be added to, by backward; prepared for that.
  virtual const torch::Tensor& BeginLeaf() = 0;

  // Says that the leaf is final in the region that starts at `offset`. Ignored before the last
  // hosted virtual rank, so that the hooks need not know which it is.
  virtual void MarkReady(int64_t offset) = 0;

  // The leaf is done. Call in virtual-rank order, once per hosted virtual rank and step.
  virtual void AddLeaf() = 0;

  // Waits for the mean over all virtual ranks and returns it, valid until the next BeginLeaf(). An
  // error is the communicator's, and final.
  virtual absl::StatusOr<torch::Tensor> Finish() = 0;

  // The sums of this worker after Finish() has failed, unless they are overwritten already. The
  // reduction is of no more use, and the communicator must end before the sums are changed.
  virtual std::optional<KeptSums> Take() = 0;

  // Forgets the leaves of a step that was given up. If something has been sent already, this aborts
  // the communicator.
  virtual void Reset() = 0;

  // Bytes of gradients that this worker has sent and received, those under way included.
  virtual Communicator::Traffic traffic() const = 0;
};

}  // namespace albef

#endif  // ALBEF_COMM_GRADIENT_REDUCTION_H_
