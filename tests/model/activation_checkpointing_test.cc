// Blocks that backward runs again: the same bits as blocks that it does not.
#include "model/activation_checkpointing.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/albef.h"
#include "model/arena.h"
#include "model/initialization.h"

namespace albef {
namespace {

constexpr ActivationCheckpointing kNone = ActivationCheckpointing::kNone;
constexpr ActivationCheckpointing kBlocks = ActivationCheckpointing::kBlocks;

// Of every kind of layer there are two: first, last and what lies between. With BERT's dropout.
AlbefOptions SmallOptions(ActivationCheckpointing checkpointing) {
  AlbefOptions options;
  options.vision = {.image_res = 32, .patch_size = 8, .width = 48, .depth = 3, .heads = 3};
  options.vision.activation_checkpointing = checkpointing;
  options.bert.vocab_size = 60;
  options.bert.hidden_size = 32;
  options.bert.num_hidden_layers = 6;
  options.bert.num_attention_heads = 4;
  options.bert.intermediate_size = 64;
  options.bert.max_position_embeddings = 12;
  options.bert.fusion_layer = 3;
  options.bert.encoder_width = 48;
  options.bert.activation_checkpointing = checkpointing;
  options.embed_dim = 8;
  options.queue_size = 20;
  return options;
}

PretrainInputs Inputs(int64_t batch, int64_t length) {
  torch::manual_seed(static_cast<uint64_t>(100 * batch + length));
  PretrainInputs inputs;
  inputs.image_BCHW = torch::randn({batch, 3, 32, 32});
  inputs.input_ids_BT = torch::randint(5, 60, {batch, length}, torch::kLong);
  inputs.attention_mask_BT = torch::ones({batch, length}, torch::kLong);
  inputs.attention_mask_BT[0].slice(0, length - 1).zero_();
  inputs.mlm_input_ids_BT = inputs.input_ids_BT.clone();
  inputs.mlm_input_ids_BT.slice(1, 1, 2).fill_(3);
  inputs.masked_index_N = torch::arange(batch, torch::kLong) * length + 1;
  inputs.masked_label_N = inputs.input_ids_BT.select(1, 1).contiguous();
  return inputs;
}

// A model in an arena, and what its step of one virtual rank is made of.
struct Student {
  explicit Student(ActivationCheckpointing checkpointing, bool has_shadows = false)
      : model(SmallOptions(checkpointing)) {
    InitializeRandomly(*model, 3);
    model->train();
    arena = std::make_unique<Arena>(*model);
    if (!has_shadows) return;
    arena->AddShadows();
    model->BindShadows([&](const torch::Tensor& parameter) { return arena->ShadowOf(parameter); });
  }

  torch::Tensor Losses(const PretrainInputs& inputs) {
    torch::manual_seed(7);
    const PretrainOutput output = model->Forward(inputs, /*alpha=*/0.4);
    return torch::stack({output.loss_mlm, output.loss_itc, output.loss_itm});
  }

  Albef model;
  std::unique_ptr<Arena> arena;
};

class ActivationCheckpointingOf : public testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Fp32AndBf16, ActivationCheckpointingOf, testing::Bool());

TEST_P(ActivationCheckpointingOf, ChangesNoBitOfLossesGradientsAndGenerator) {
  Student plain(kNone, GetParam()), checkpointed(kBlocks, GetParam());
  const struct { int64_t batch, length; } shapes[] = {{2, 3}, {3, 12}, {4, 7}, {8, 9}};
  for (const auto& [batch, length] : shapes) {
    SCOPED_TRACE(testing::Message() << batch << " pairs of " << length << " tokens");
    const PretrainInputs inputs = Inputs(batch, length);
    // Twice into the same gradients: the second is added to the first.
    for (int i = 0; i < 2; ++i) {
      const torch::Tensor expected = plain.Losses(inputs);
      const torch::Tensor drawn_after_forward = torch::rand(3);
      expected.sum().backward();
      const torch::Tensor drawn_after_backward = torch::rand(3);

      const torch::Tensor losses = checkpointed.Losses(inputs);
      EXPECT_TRUE(torch::equal(losses, expected));
      EXPECT_TRUE(torch::equal(torch::rand(3), drawn_after_forward));
      losses.sum().backward();
      EXPECT_TRUE(torch::equal(torch::rand(3), drawn_after_backward));
      EXPECT_TRUE(torch::equal(checkpointed.arena->gradients(), plain.arena->gradients()));
    }
    EXPECT_GT(plain.arena->gradients().abs().sum().item<double>(), 0);
  }
  checkpointed.arena->CheckAliasing();
}

TEST(ActivationCheckpointing, EveryGradientIsToldOfOnceAndFinalThen) {
  Student student(kBlocks);
  std::map<std::string, torch::Tensor> told;
  {
    const Arena::GradientWatch watch(*student.arena, [&](const LayoutEntry& entry) {
      const torch::Tensor gradient = Arena::View(student.arena->gradients(), entry).clone();
      EXPECT_TRUE(told.emplace(entry.key, gradient).second) << entry.key << " was told of before";
    });
    student.Losses(Inputs(4, 7)).sum().backward();
  }
  EXPECT_EQ(told.size(), student.arena->layout().entries().size());
  for (const LayoutEntry& entry : student.arena->layout().entries()) {
    ASSERT_TRUE(told.contains(entry.key)) << entry.key;
    EXPECT_TRUE(torch::equal(told[entry.key], Arena::View(student.arena->gradients(), entry)))
        << entry.key;
  }
}

// A block with a weight, which counts its runs.
struct CountedBlock {
  torch::Tensor weight = torch::randn({5}).requires_grad_();
  std::shared_ptr<int> runs = std::make_shared<int>(0);

  torch::Tensor Run(const torch::Tensor& x) const {
    return RunBlock(kBlocks, {x},
                    [weight = weight, runs = runs](const std::vector<torch::Tensor>& inputs) {
                      ++*runs;
                      return at::dropout((inputs[0] * weight).exp(), 0.5, true);
                    });
  }
};

TEST(ActivationCheckpointing, RunsABlockAgainOnlyWhereAutogradRecords) {
  const CountedBlock block;
  const torch::Tensor x = torch::randn({4, 5}).requires_grad_();
  const torch::Tensor y = block.Run(x);
  EXPECT_EQ(*block.runs, 1);
  y.sum().backward();
  EXPECT_EQ(*block.runs, 2);
  // Where dropout let something through it is the same in value and gradient: d/dx exp(wx)·m = w·y.
  EXPECT_TRUE(torch::allclose(x.grad(), block.weight.detach() * y.detach()));

  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(block.Run(x).requires_grad());
  EXPECT_EQ(*block.runs, 3);
}

TEST(ActivationCheckpointing, KeepsNothingAlive) {
  const CountedBlock block;
  const auto is_released = [&] { return block.runs.use_count() == 1; };
  torch::Tensor x = torch::randn({4, 5}).requires_grad_();
  {
    const torch::Tensor unused = block.Run(x);
    EXPECT_FALSE(is_released());
  }
  EXPECT_TRUE(is_released());
  EXPECT_EQ(x.use_count(), 1u);

  const torch::Tensor y = block.Run(x);
  y.sum().backward();
  // The output is still in hand, but its block is done.
  EXPECT_TRUE(is_released());
  EXPECT_THROW(y.sum().backward(), c10::Error);
}

TEST(ActivationCheckpointing, InputsWithoutGradientGetNone) {
  const torch::Tensor x = torch::randn({4}).requires_grad_();
  const torch::Tensor scale = torch::randn({4});
  const torch::Tensor unused = torch::randn({4}).requires_grad_();
  RunBlock(kBlocks, {scale, x, unused},
           [](const std::vector<torch::Tensor>& inputs) { return inputs[0] * inputs[1]; })
      .sum()
      .backward();
  EXPECT_TRUE(torch::equal(x.grad(), scale));
  EXPECT_FALSE(scale.grad().defined());
  EXPECT_FALSE(unused.grad().defined());
}

}  // namespace
}  // namespace albef
