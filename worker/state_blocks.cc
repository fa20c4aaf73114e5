#include "worker/state_blocks.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <span>
#include <utility>

#include "checkpoint/digest.h"

namespace albef {
namespace {

constexpr int64_t kWordBytes = 4;

// Odd, so that a product changes whenever the other factor does.
constexpr auto kFactor = std::bit_cast<int64_t>(uint64_t{0x9E3779B97F4A7C15});

std::array<int64_t, 3> Values(const StepCounters& counters) {
  return {counters.iteration, counters.updates, counters.ema_updates};
}

// The same odd numbers on every worker, whatever its generators have drawn.
torch::Tensor OddWeights(int64_t count, torch::Device device) {
  torch::Tensor weights = torch::arange(1, count + 1, torch::kLong) * kFactor;
  weights = weights.bitwise_xor(weights.bitwise_right_shift(29)) * kFactor;
  return weights.bitwise_or(1).to(device);
}

}  // namespace

StateBlocks::StateBlocks(const TrainState* state, const Options& options) : state_(state) {
  const int64_t block_words = std::max<int64_t>(options.block_bytes / kWordBytes, 1);
  int64_t room = 0;  // words, in the last block
  for (const StateEntry& entry : state->State()) {
    if (entry.key.starts_with("counters.") || entry.tensor.numel() == 0) continue;
    const torch::Tensor words = entry.tensor.view({-1}).view(torch::kInt32);
    for (int64_t offset = 0; offset < words.numel();) {
      if (room == 0) {
        blocks_.emplace_back();
        room = block_words;
      }
      const int64_t length = std::min(room, words.numel() - offset);
      blocks_.back().push_back({entry.key, words.narrow(0, offset, length)});
      offset += length;
      room -= length;
    }
  }
  const torch::Device device = state->options().device;
  const HashKind kind =
      options.hash.value_or(device.is_cpu() ? HashKind::kXxh3 : HashKind::kWeightedSum);
  if (kind == HashKind::kWeightedSum) weights_ = OddWeights(block_words, device);
}

torch::Tensor StateBlocks::Hash(int64_t block) const {
  const Block& pieces = blocks_[static_cast<size_t>(block)];
  torch::NoGradGuard no_grad;
  if (weights_.defined()) return WeightedSum(pieces);
  StreamHash hash;
  const std::array<int64_t, 3> counters = Values(state_->counters());
  hash.Update(std::as_bytes(std::span(counters)));
  for (const Piece& piece : pieces) {
    hash.Update(std::as_bytes(std::span(piece.words.const_data_ptr<int32_t>(),
                                        static_cast<size_t>(piece.words.numel()))));
  }
  return torch::tensor(std::bit_cast<int64_t>(hash.Finish().low), torch::kLong);
}

torch::Tensor StateBlocks::WeightedSum(const Block& block) const {
  std::vector<torch::Tensor> words;
  for (const Piece& piece : block) words.push_back(piece.words);
  const torch::Tensor all = torch::cat(words).to(torch::kLong);
  torch::Tensor sum = (all * weights_.narrow(0, 0, all.numel())).sum();
  for (const int64_t counter : Values(state_->counters())) sum = sum * kFactor + counter;
  return sum;
}

torch::Tensor StateBlocks::HashAll() const {
  torch::Tensor all = Hash(0);
  for (int64_t block = 1; block < size(); ++block) all = all * kFactor + Hash(block);
  return all;
}

std::string StateBlocks::Describe(int64_t block) const {
  const Block& pieces = blocks_[static_cast<size_t>(block)];
  const std::string number = fmt::format("(block {} of {})", block + 1, size());
  if (pieces.size() == 1) return fmt::format("{} {}", pieces.front().key, number);
  return fmt::format("{} to {} {}", pieces.front().key, pieces.back().key, number);
}

}  // namespace albef
