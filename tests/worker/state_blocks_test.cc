#include "worker/state_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "model/initialization.h"
#include "tests/model/tiny_model.h"

namespace albef {
namespace {

using HashKind = StateBlocks::HashKind;
using ::testing::HasSubstr;

std::unique_ptr<TrainState> NewState() {
  Albef model(TinyModelOptions(/*queue_size=*/20));
  InitializeRandomly(*model, 3);
  model->train();
  auto state = std::make_unique<TrainState>(model, TrainStateOptions());
  state->Prologue();
  return state;
}

std::vector<int64_t> Hashes(const StateBlocks& blocks) {
  std::vector<int64_t> hashes;
  for (int64_t block = 0; block < blocks.size(); ++block) {
    hashes.push_back(blocks.Hash(block).item<int64_t>());
  }
  return hashes;
}

class StateBlocksTest : public ::testing::TestWithParam<HashKind> {
 protected:
  StateBlocks Blocks(const TrainState& state, int64_t block_bytes = 1000) const {
    return StateBlocks(&state, {.block_bytes = block_bytes, .hash = GetParam()});
  }
};

TEST_P(StateBlocksTest, AnyBitOfTheStateShowsInOneBlockThatNamesItsTensor) {
  const auto state = NewState();
  const StateBlocks blocks = Blocks(*state);
  const std::vector<int64_t> before = Hashes(blocks);
  const auto all = blocks.HashAll().item<int64_t>();
  ASSERT_GT(blocks.size(), 20);
  std::mt19937 random(5);
  for (const StateEntry& entry : state->State()) {
    if (entry.key.starts_with("counters.")) continue;
    auto* const bytes = static_cast<unsigned char*>(entry.tensor.data_ptr());
    const size_t byte = random() % entry.tensor.nbytes();
    const auto mask = static_cast<unsigned char>(1U << (random() % 8));
    bytes[byte] ^= mask;
    const std::vector<int64_t> after = Hashes(blocks);
    EXPECT_NE(blocks.HashAll().item<int64_t>(), all);
    bytes[byte] ^= mask;
    std::vector<int64_t> differing;
    for (int64_t block = 0; block < blocks.size(); ++block) {
      if (before[static_cast<size_t>(block)] != after[static_cast<size_t>(block)]) {
        differing.push_back(block);
      }
    }
    ASSERT_EQ(differing.size(), 1u) << entry.key;
    EXPECT_THAT(blocks.Describe(differing[0]), HasSubstr("(block ")) << entry.key;
  }
  EXPECT_EQ(Hashes(blocks), before);
}

TEST_P(StateBlocksTest, CountersShowInEveryBlock) {
  const auto state = NewState();
  const StateBlocks blocks = Blocks(*state);
  const std::vector<int64_t> before = Hashes(blocks);
  state->Skip();
  const std::vector<int64_t> after = Hashes(blocks);
  for (size_t block = 0; block < before.size(); ++block) EXPECT_NE(before[block], after[block]);
}

TEST_P(StateBlocksTest, WhatIsInNoCheckpointDoesNotShow) {
  const auto state = NewState();
  const StateBlocks blocks = Blocks(*state);
  const std::vector<int64_t> before = Hashes(blocks);
  // τ has no teacher.
  Arena::View(state->arena().teacher(), *state->arena().layout().Find("temp")).fill_(7);
  EXPECT_EQ(Hashes(blocks), before);
}

TEST_P(StateBlocksTest, EqualStatesHaveEqualHashesAndASmallOneIsOneBlock) {
  const auto a = NewState(), b = NewState();
  torch::rand(17);
  EXPECT_EQ(Hashes(Blocks(*a)), Hashes(Blocks(*b)));
  const StateBlocks whole = Blocks(*a, StateBlocks::Options().block_bytes);
  EXPECT_EQ(whole.size(), 1);
  EXPECT_THAT(whole.Describe(0), HasSubstr("(block 1 of 1)"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, StateBlocksTest,
                         ::testing::Values(HashKind::kXxh3, HashKind::kWeightedSum));

}  // namespace
}  // namespace albef
