// Mean of all virtual ranks' gradients, summed in tree order over all workers (design §4, Tree
// reduction).
//
// The result has the same bits on every worker, for every number of workers: each adds its own
// virtual ranks' gradients along whole subtrees, and whoever owns an element receives the partial
// sums of all subtrees, finishes the tree and hands out the mean. With one subtree per worker this
// moves what a ring all-reduce moves, 2 · (R − 1)/R of the arena per worker and direction.
//
// The arena is cut into buckets from the back, as backward fills it. A bucket leaves as soon as the
// last hosted virtual rank's gradients in it are final and all buckets behind it have left, so
// reduction runs beside the rest of backward, on a thread of its own. Buckets and their two
// operations go out in the same order on every worker:
//
//   exchange 0, exchange 1, gather 0, exchange 2, gather 1, … on Lane::kGradients
//
// A lone worker needs no communicator; nothing is sent, and no memory taken beyond the arenas.
//
// Leaf() and BeginLeaf(), AddLeaf(), Finish() and Reset() belong to one thread; MarkReady() may be
// called from any.
#ifndef ALBEF_COMM_TREE_REDUCTION_H_
#define ALBEF_COMM_TREE_REDUCTION_H_

#include <torch/types.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/gradient_reduction.h"
#include "comm/partial_sums.h"
#include "comm/reduction_plan.h"
#include "comm/slices.h"

namespace albef {

class TreeReduction : public GradientReduction {
 public:
  struct Options {
    int64_t bucket_bytes = 4 << 20;
    // Stretches of the arena that MarkReady() will name, e.g. one per parameter. What lies between
    // them is padding and always final. Without regions buckets leave at the last AddLeaf().
    std::vector<ElementRange> regions = {};
  };

  // The worker of `communicator`'s rank hosts slices[rank]; one slice per rank. `communicator` must
  // outlive the reduction and may be null for one slice. Of the arenas there are at least
  // NumGradientArenas() of the own slice; the mean ends up in one of them. The first step uses what
  // is `kept`.
  TreeReduction(Communicator* communicator, std::vector<Slice> slices, KeptSums kept,
                Options options);

  // Aborts the communicator if a step is under way.
  ~TreeReduction() override;

  TreeReduction(const TreeReduction&) = delete;
  TreeReduction& operator=(const TreeReduction&) = delete;

  // Where the gradient of the next virtual rank goes; it holds old values until then.
  const torch::Tensor& Leaf() const { return sums_.Leaf(); }

  bool Keeps(int64_t virtual_rank) const override { return sums_.Keeps(virtual_rank); }

  // Leaf(), zeroed.
  const torch::Tensor& BeginLeaf() override;
  void MarkReady(int64_t offset) override;
  // Puts Leaf() on the stack.
  void AddLeaf() override;
  absl::StatusOr<torch::Tensor> Finish() override;
  std::optional<KeptSums> Take() override;
  void Reset() override;

  // Memory held beside the arenas.
  int64_t buffer_bytes() const;

  Communicator::Traffic traffic() const override;

 private:
  bool Distributed() const { return slices_.size() > 1; }

  // The reduction thread: one ReduceStep() after the other, until one fails.
  void Run();
  absl::Status ReduceStep();
  // False: the reduction is being destroyed.
  bool AwaitReady(size_t bucket);
  // Finishes the own sums of a bucket.
  void Fold(size_t bucket) const;
  Work StartExchange(size_t bucket);
  // Finishes the own share of a bucket, and starts handing out its mean.
  absl::StatusOr<Work> StartGather(size_t bucket, const Work& exchange);
  // The partial sums of the own share, from all subtrees in tree order.
  std::vector<torch::Tensor> Operands(size_t bucket) const;
  torch::Tensor OwnShare(size_t bucket) const;

  // Ready for the first bucket of the next step.
  void PrepareStep();
  // What remains of the step leaves, finished or not.
  void MarkAllReady();
  void CountTraffic(int64_t bytes_sent, int64_t bytes_received);

  Communicator* const communicator_;
  const std::vector<Slice> slices_;
  const int rank_;
  const int64_t virtual_ranks_;
  PartialSums sums_;
  const ReductionPlan plan_;
  // Remote partial sums of the own share, for the even and the odd buckets.
  torch::Tensor received_[2];

  // Of the reduction thread, until step_finished_.
  size_t num_folded_ = 0;     // buckets whose own sums are finished
  bool overwritten_ = false;  // a mean has taken the place of a sum

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> regions_missing_;  // by bucket
  std::vector<bool> region_ready_;
  bool step_started_ = false;  // from the first region or AddLeaf() that is final
  bool all_ready_ = false;
  bool step_finished_ = false;  // from the thread's last word on the step until the next begins
  bool stopping_ = false;
  absl::Status result_;  // of the finished step; an error stays
  Communicator::Traffic traffic_;

  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_COMM_TREE_REDUCTION_H_
