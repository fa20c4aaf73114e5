#include "worker/pretrain_step.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <limits>
#include <memory>
#include <vector>

#include "dataloader/normalize.h"
#include "model/initialization.h"
#include "tests/model/tiny_model.h"
#include "worker/device_batch.h"

namespace albef {
namespace {

std::unique_ptr<TrainState> NewState(
    ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone) {
  AlbefOptions options = TinyModelOptions(/*queue_size=*/20);
  options.vision.activation_checkpointing = checkpointing;
  options.bert.activation_checkpointing = checkpointing;
  Albef model(options);
  InitializeRandomly(*model, 3);
  model->train();
  return std::make_unique<TrainState>(model, TrainStateOptions());
}

constexpr int kRanks = 3;

PretrainStep::Options StepOptions() {
  PretrainStep::Options options;
  options.seed = 5;
  options.virtual_ranks = kRanks;
  options.batch_size = 4;
  options.steps_per_epoch = 4;
  options.schedule.warmup_lr = 1e-3;
  return options;
}

// The batch of a virtual rank as a function of the iteration.
PretrainInputs Inputs(int64_t iteration, int64_t rank) {
  torch::manual_seed(static_cast<uint64_t>(1000 * iteration + rank));
  PretrainInputs inputs;
  inputs.image_BCHW = torch::randn({4, 3, 16, 16});
  inputs.input_ids_BT = torch::randint(5, 40, {4, 6}, torch::kLong);
  inputs.attention_mask_BT = torch::ones({4, 6}, torch::kLong);
  inputs.mlm_input_ids_BT = inputs.input_ids_BT.clone();
  inputs.masked_index_N = torch::tensor({1, 8, 15}, torch::kLong);
  inputs.masked_label_N = inputs.input_ids_BT.flatten().index_select(0, inputs.masked_index_N);
  return inputs;
}

PretrainStep::Report RunStep(PretrainStep& step, const TrainState& state) {
  const int64_t iteration = state.counters().iteration;
  return *step.Run(
      [&](int64_t rank) -> absl::StatusOr<PretrainInputs> { return Inputs(iteration, rank); });
}

void ExpectSameBits(const TrainState& a, const TrainState& b) {
  const std::vector<StateEntry> left = a.State(), right = b.State();
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_TRUE(torch::equal(left[i].tensor, right[i].tensor)) << left[i].key;
  }
}

TEST(PretrainStep, IsAFunctionOfStateAndInputs) {
  const auto a = NewState(), b = NewState();
  PretrainStep step_a(a.get(), StepOptions(), Place::Alone(kRanks)),
      step_b(b.get(), StepOptions(), Place::Alone(kRanks));
  for (int i = 0; i < 5; ++i) {
    const PretrainStep::Report report = RunStep(step_a, *a);
    EXPECT_TRUE(report.decision.committed);
    EXPECT_EQ(report.decision.iteration, i);
    EXPECT_EQ(report.num_pairs, 4 * kRanks);
    torch::rand(17);  // whatever else draws from the generators does not matter
    RunStep(step_b, *b);
  }
  EXPECT_EQ(a->counters(), (StepCounters{.iteration = 5, .updates = 5, .ema_updates = 5}));
  ExpectSameBits(*a, *b);
}

TEST(PretrainStep, EndsInTheSameStateWithBlocksThatBackwardRunsAgain) {
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const auto plain = NewState(), checkpointed = NewState(ActivationCheckpointing::kBlocks);
    PretrainStep::Options options = StepOptions();
    options.virtual_ranks = ranks;
    PretrainStep step(plain.get(), options, Place::Alone(ranks)),
        step_of_blocks(checkpointed.get(), options, Place::Alone(ranks));
    for (int i = 0; i < 5; ++i) {
      const PretrainStep::Report expected = RunStep(step, *plain);
      const PretrainStep::Report report = RunStep(step_of_blocks, *checkpointed);
      EXPECT_TRUE(report.decision.committed);
      EXPECT_EQ(report.decision, expected.decision);
    }
    ExpectSameBits(*plain, *checkpointed);
  }
}

TEST(PretrainStep, AnErrorOfTheInputsLeavesNothingBehind) {
  const auto undisturbed = NewState(), disturbed = NewState();
  PretrainStep step(undisturbed.get(), StepOptions(), Place::Alone(kRanks)),
      retried(disturbed.get(), StepOptions(), Place::Alone(kRanks));
  for (int i = 0; i < 3; ++i) {
    RunStep(step, *undisturbed);
    const auto failed = retried.Run([&](int64_t rank) -> absl::StatusOr<PretrainInputs> {
      if (rank == 2) return absl::UnavailableError("disk");
      return Inputs(disturbed->counters().iteration, rank);
    });
    EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnavailable);
    RunStep(retried, *disturbed);
  }
  ExpectSameBits(*undisturbed, *disturbed);
}

TEST(PretrainStep, SkipsAStepWhereOneRankIsNotFinite) {
  const auto state = NewState(), expected = NewState();
  PretrainStep step(state.get(), StepOptions(), Place::Alone(kRanks));
  const auto report = step.Run([&](int64_t rank) -> absl::StatusOr<PretrainInputs> {
    PretrainInputs inputs = Inputs(0, rank);
    if (rank == 1) inputs.image_BCHW[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
    return inputs;
  });
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->decision.committed);
  EXPECT_EQ(state->counters(), (StepCounters{.iteration = 1, .updates = 0, .ema_updates = 1}));
  // Weights, moments and queues are those of a state that saw the prologue alone.
  expected->Prologue();
  expected->Skip();
  ExpectSameBits(*expected, *state);
  EXPECT_TRUE(RunStep(step, *state).decision.committed);
}

TEST(NormalizeImages, EqualsTheDataloadersReferenceBitForBit) {
  constexpr int kRes = 16;
  std::vector<uint8_t> image_BHWC(2 * kRes * kRes * 3);
  for (size_t i = 0; i < image_BHWC.size(); ++i) image_BHWC[i] = static_cast<uint8_t>(i * 7);
  const torch::Tensor actual = NormalizeImages(image_BHWC, kRes, torch::kCPU);
  torch::Tensor expected = torch::empty({2, 3, kRes, kRes});
  const size_t bytes = kRes * kRes * 3;
  for (size_t i = 0; i < 2; ++i) {
    Normalize({.height = kRes,
               .width = kRes,
               .rgb_HWC = std::span<const uint8_t>(image_BHWC).subspan(i * bytes, bytes)},
              {expected[static_cast<int64_t>(i)].data_ptr<float>(), bytes});
  }
  EXPECT_TRUE(torch::equal(actual, expected));
}

}  // namespace
}  // namespace albef
