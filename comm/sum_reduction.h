// Mean of all virtual ranks' gradients, as fast as the transport can: the fast mode of GPUs (design
// §4, `reduction: nccl`).
//
// Backward adds the hosted virtual ranks' gradients up in one arena; Communicator::Sum() adds the
// workers' arenas. All workers get the same bits, but the order of the additions depends on how
// many they are.
//
// The arena is cut into buckets from the back, as backward fills it, which leave as in a
// TreeReduction: with the last hosted virtual rank, as soon as they and those behind them are
// final, in the same order on every worker, on Lane::kGradients.
//
// A lone worker needs no communicator.
#ifndef ALBEF_COMM_SUM_REDUCTION_H_
#define ALBEF_COMM_SUM_REDUCTION_H_

#include <torch/types.h>

#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/gradient_reduction.h"
#include "comm/reduction_plan.h"
#include "comm/slices.h"

namespace albef {

class SumReduction : public GradientReduction {
 public:
  struct Options {
    int64_t bucket_bytes = 32 << 20;
    std::vector<ElementRange> regions = {};  // as TreeReduction's
  };

  // The worker of `communicator`'s rank hosts slices[rank]. `communicator` must outlive the
  // reduction and may be null for one slice. The mean ends up in `arena`, which is flat.
  SumReduction(Communicator* communicator, const std::vector<Slice>& slices, torch::Tensor arena,
               Options options);

  // Aborts the communicator if a step is under way.
  ~SumReduction() override;

  // All virtual ranks are added up in one arena, which peers' sums overwrite: nothing is kept.
  bool Keeps(int64_t) const override { return false; }
  std::optional<KeptSums> Take() override { return std::nullopt; }

  const torch::Tensor& BeginLeaf() override;
  void MarkReady(int64_t offset) override;
  void AddLeaf() override;
  absl::StatusOr<torch::Tensor> Finish() override;
  void Reset() override;
  Communicator::Traffic traffic() const override;

 private:
  bool Distributed() const { return communicator_ != nullptr; }
  // Sends the next buckets, as far as they are final.
  void SendReadyLocked(bool is_all_ready);
  void PrepareStepLocked();

  Communicator* const communicator_;
  const int64_t num_leaves_;  // hosted
  const int64_t virtual_ranks_;
  const torch::Tensor arena_;
  const ReductionPlan plan_;

  mutable std::mutex mutex_;
  int64_t num_added_ = 0;
  std::vector<int64_t> regions_missing_;  // by bucket
  std::vector<Work> works_;               // of the buckets that have left
  Communicator::Traffic traffic_;
};

}  // namespace albef

#endif  // ALBEF_COMM_SUM_REDUCTION_H_
