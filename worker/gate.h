// The gate: what every virtual rank says about an iteration, and the decision that all workers draw
// from it alike (design §4, Gate).
#ifndef ALBEF_WORKER_GATE_H_
#define ALBEF_WORKER_GATE_H_

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/slices.h"

namespace albef {

// Bits that any worker can raise; all see the union at the same iteration.
namespace gate_flag {
inline constexpr uint32_t kCheckpoint = 1;  // take a checkpoint at this boundary
inline constexpr uint32_t kPause = 2;       // hold here until told to resume
inline constexpr uint32_t kResize = 4;      // hold here: the membership is about to change
inline constexpr uint32_t kPreempt = 8;     // checkpoint, then end, to be started again
inline constexpr uint32_t kStop = 16;       // checkpoint, then end
inline constexpr uint32_t kHold = kPause | kResize | kPreempt | kStop;
}  // namespace gate_flag

// The workers' copies of the training state are not the same.
struct StateDifference {
  // Who differs from what more than half of the workers have, ascending; empty: there is no such
  // majority.
  std::vector<int> minority_ranks;
  std::string where;  // the tensors that were compared

  friend bool operator==(const StateDifference&, const StateDifference&) = default;
};

struct GateDecision {
  int64_t iteration = 0;   // that it is about
  bool committed = false;  // else skipped: a loss or gradient was not finite
  uint32_t flags = 0;
  // Means over the virtual ranks.
  double loss_mlm = 0;
  double loss_itc = 0;
  double loss_itm = 0;
  double temperature = 0;
  // Set: the iteration counts for nothing, for one worker's gradients came from a damaged state.
  std::optional<StateDifference> difference = {};

  friend bool operator==(const GateDecision&, const GateDecision&) = default;
};

// Words per virtual rank in a gate record.
inline constexpr int64_t kGateWords = 8;

// The records (N, kGateWords), float64 and on the device, of the virtual ranks of one worker.
// `losses_N3` has one tensor of (mlm, itc, itm) per virtual rank; `non_finite` is not 0 where the
// mean gradient is not finite; `state_hash` is an int64 scalar (StateBlocks).
torch::Tensor GateRecords(const std::vector<torch::Tensor>& losses_N3,
                          const torch::Tensor& non_finite, const torch::Tensor& temperature,
                          uint32_t flags, const torch::Tensor& state_hash);

// From the records of all virtual ranks in their order, on any device; slices[r] are those of
// worker r, each of whom has one voice about the state. The one wait for the device.
GateDecision Decide(int64_t iteration, const torch::Tensor& records_VW,
                    std::span<const Slice> slices);

}  // namespace albef

#endif  // ALBEF_WORKER_GATE_H_
