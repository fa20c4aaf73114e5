// One iteration of pretraining over the virtual ranks that this worker hosts, together with the
// other workers of its generation (design §4, The step).
//
//   1. Prologue: clamp τ, move the teacher.
//   2. For each hosted virtual rank: seed the generators, forward, backward into an arena of its
//      own. Teacher features of all virtual ranks are gathered meanwhile.
//   3. Mean of all virtual ranks' gradients, beside the last backward.
//   4. Gate: a few words per virtual rank go to all workers; one copy of them to the host is the
//      iteration's only wait for the device.
//   5. Commit, or skip where a loss or gradient is not finite. Neither where the gate shows that
//      the workers' states differ: the iteration is done again once they are the same.
//
// Where a peer is lost while gradients are added up, what this worker has computed is not: the step
// of the next generation can take it over, and computes only what is missing.
//
// A worker contributes to the gate only when it holds the mean gradient and all gathered features,
// so that whoever misses the decision can still be told it and end the iteration as the others did.
//
// The result is a function of state, inputs and options alone; neither the number of workers nor
// what failed before changes a bit, unless gradients are summed in the transport's order. Not
// thread-safe.
#ifndef ALBEF_WORKER_PRETRAIN_STEP_H_
#define ALBEF_WORKER_PRETRAIN_STEP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/gradient_reduction.h"
#include "comm/partial_sums.h"
#include "comm/slices.h"
#include "coordinator/run_log.h"
#include "model/albef.h"
#include "model/schedule.h"
#include "model/train_state.h"
#include "worker/gate.h"
#include "worker/section.h"
#include "worker/state_blocks.h"

namespace albef {

// A worker among the members of a generation.
struct Place {
  Communicator* communicator = nullptr;  // null for a lone worker
  int64_t term = 0;                      // of the assignment
  int64_t generation = 0;
  int rank = 0;
  std::vector<Slice> slices;  // of all ranks

  // The only worker.
  static Place Alone(int virtual_ranks);

  const RankRange& hosted() const { return slices[static_cast<size_t>(rank)].ranks; }
};

// In which order the virtual ranks' gradients are added.
enum class GradientOrder {
  kTree,       // the same for any number of workers
  kTransport,  // the communicator's choice, and in one arena: the fast way on GPUs
};

// What a worker has computed of an iteration that failed.
struct UnfinishedIteration {
  // Of one virtual rank, what its batch yields besides the gradient.
  struct Computed {
    torch::Tensor losses_3;
    torch::Tensor image_feat_m_BE;
    torch::Tensor text_feat_m_BE;
  };

  int64_t iteration = 0;
  std::map<int64_t, Computed> computed;  // by virtual rank
  KeptSums gradients;                    // sums over some or all of these
};

class PretrainStep {
 public:
  struct Options {
    uint64_t seed = 0;
    int virtual_ranks = 1;
    int64_t batch_size = 1;  // pairs of one virtual rank
    int64_t steps_per_epoch = 1;
    ScheduleOptions schedule;
    DistillationOptions distillation;
    int64_t bucket_bytes = 4 << 20;  // of gradients that leave together, in tree order
    GradientOrder gradient_order = GradientOrder::kTree;
    // Flags to raise, asked at the gate.
    std::function<uint32_t()> raised_flags = [] { return 0U; };
    // Told what the worker is busy with.
    std::function<void(Section)> enter = [](Section) {};
  };

  struct Report {
    GateDecision decision;
    double learning_rate = 0;
    double alpha = 0;
    int64_t num_pairs = 0;  // of all virtual ranks
    PhaseSeconds seconds;
    double total_seconds = 0;
  };

  // `inputs(v)` yields virtual rank v's batch of this iteration, asked in ascending order.
  using InputSource = std::function<absl::StatusOr<PretrainInputs>(int64_t virtual_rank)>;

  // `state` and the communicator must outlive the step. The first Run() takes over what is
  // `unfinished` of its iteration, which must have been computed from this state.
  PretrainStep(TrainState* state, Options options, Place place,
               std::optional<UnfinishedIteration> unfinished = std::nullopt);

  // The hosted virtual ranks whose batches the next Run() will ask for.
  std::vector<int64_t> MissingRanks() const;

  // Runs one iteration. An error is the input source's or the
  // communicator's; the state then is as before but for the prologue, which does not act twice, and
  // holds_iteration() says whether Apply() can still end the iteration.
  absl::StatusOr<Report> Run(const InputSource& inputs);

  // The last Run() failed at its gate, with all in hand that the decision needs.
  bool holds_iteration() const { return held_.has_value(); }

  // Ends the held iteration. `decision` must be about it.
  void Apply(const GateDecision& decision);

  // After a Run() that failed because a peer was lost: what the one who does the iteration again
  // can use, if anything. Nothing can be run any more; the communicator must end before that is
  // used.
  std::optional<UnfinishedIteration> TakeUnfinished();

  // Gradient arenas held, the state's own included.
  int num_gradient_arenas() const { return num_gradient_arenas_; }

 private:
  // What a commit takes besides the mean gradient.
  struct Held {
    double learning_rate;
    torch::Tensor image_feat_m_NE;  // of all virtual ranks
    torch::Tensor text_feat_m_NE;
  };

  void Commit(const GateDecision& decision, const Held& held);

  using Computed = UnfinishedIteration::Computed;

  // The hosted virtual ranks' features on their way to all workers.
  struct Gathering;
  Gathering GatherFeatures(const std::map<int64_t, Computed>& computed) const;
  // What the gate compares; nothing for a lone worker.
  torch::Tensor HashOfState(int64_t block) const;
  absl::StatusOr<torch::Tensor> GatherGate(const torch::Tensor& records_NW) const;

  TrainState* const state_;
  const Options options_;
  const Place place_;
  const int num_gradient_arenas_;
  const StateBlocks blocks_;
  const std::unique_ptr<GradientReduction> reduction_;
  // Of virtual ranks that the next Run() need not compute, or of all after one that failed when it
  // had.
  std::map<int64_t, Computed> computed_;
  std::optional<Held> held_;
  bool compares_all_ = false;  // of the state, at the next gate
};

}  // namespace albef

#endif  // ALBEF_WORKER_PRETRAIN_STEP_H_
