// The training state in blocks, of which the workers compare one per step (design §4, Gate).
//
// All workers hold the same bits. What makes one of them differ, a bit that flipped in its memory
// or a kernel that is not deterministic after all, is found when the turn of its block comes. A
// block is a stretch of TrainState::State(), small tensors together, large ones cut; padding is no
// part of it, the counters are part of every one. A small model is a single block.
//
// On a CPU a hash is XXH3; elsewhere a sum of the words with fixed odd weights modulo 2^64, which
// the device computes without the host waiting for it. Both change with every single bit, and are
// only compared among workers on devices of one kind.
//
// Not thread-safe: used between two changes of the state.
#ifndef ALBEF_WORKER_STATE_BLOCKS_H_
#define ALBEF_WORKER_STATE_BLOCKS_H_

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/train_state.h"

namespace albef {

class StateBlocks {
 public:
  enum class HashKind { kXxh3, kWeightedSum };

  struct Options {
    int64_t block_bytes = 4 << 20;      // XXH3 reads so much in less than half a millisecond
    std::optional<HashKind> hash = {};  // else by the state's device
  };

  // `state` must outlive it.
  StateBlocks(const TrainState* state, const Options& options);

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }

  // An int64 scalar on the state's device.
  torch::Tensor Hash(int64_t block) const;

  // Of all blocks together.
  torch::Tensor HashAll() const;

  // "exp_avg.text_proj.bias to exp_avg.text_proj.weight (block 3 of 7)".
  std::string Describe(int64_t block) const;

 private:
  // A range of one tensor, as int32 words; shares its memory.
  struct Piece {
    std::string key;
    torch::Tensor words;
  };
  using Block = std::vector<Piece>;

  torch::Tensor WeightedSum(const Block& block) const;

  const TrainState* const state_;
  std::vector<Block> blocks_;
  torch::Tensor weights_;  // int64, one per word; only for kWeightedSum
};

}  // namespace albef

#endif  // ALBEF_WORKER_STATE_BLOCKS_H_
