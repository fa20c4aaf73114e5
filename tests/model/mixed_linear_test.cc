#include "model/mixed_linear.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <map>
#include <string>

#include "model/arena.h"
#include "model/layers.h"
#include "tests/model/golden.h"

namespace albef {
namespace {

torch::TensorOptions OnTestDevice() { return torch::TensorOptions(golden::TestDevice()); }

// Whole numbers: bf16 has them exactly up to 256, and their products' sums, so every precision must
// give the same.
torch::Tensor SmallNumbers(torch::IntArrayRef shape, int64_t most = 3) {
  return torch::randint(-most, most + 1, shape, OnTestDevice());
}

struct Layer {
  torch::Tensor weight_NK = SmallNumbers({6, 8}).requires_grad_();
  torch::Tensor bias_N = SmallNumbers({6}).requires_grad_();
  LinearShadow shadow = {weight_NK.detach().to(torch::kBFloat16),
                         bias_N.detach().to(torch::kBFloat16)};
};

TEST(MixedLinear, GivesResultsAndGradientsOfTheProductInTheTypesAskedFor) {
  torch::manual_seed(1);
  for (const torch::ScalarType input_type : {torch::kFloat32, torch::kBFloat16}) {
    for (const torch::ScalarType result_type : {torch::kFloat32, torch::kBFloat16}) {
      SCOPED_TRACE(std::string(c10::toString(input_type)) + " to " + c10::toString(result_type));
      Layer mixed;
      const torch::Tensor x = SmallNumbers({2, 5, 8}).to(input_type).requires_grad_();
      const torch::Tensor gradient = SmallNumbers({2, 5, 6});
      const torch::Tensor y =
          MixedLinear(x, mixed.weight_NK, mixed.bias_N, mixed.shadow, result_type);
      y.backward(gradient.to(result_type));

      const torch::Tensor plain_x = x.detach().to(torch::kFloat32).requires_grad_();
      const torch::Tensor weight_NK = mixed.weight_NK.detach().clone().requires_grad_();
      const torch::Tensor bias_N = mixed.bias_N.detach().clone().requires_grad_();
      const torch::Tensor plain_y = at::linear(plain_x, weight_NK, bias_N);
      plain_y.backward(gradient);

      EXPECT_EQ(y.scalar_type(), result_type);
      EXPECT_TRUE(y.to(torch::kFloat32).equal(plain_y));
      EXPECT_EQ(x.grad().scalar_type(), input_type);
      EXPECT_TRUE(x.grad().to(torch::kFloat32).equal(plain_x.grad()));
      EXPECT_EQ(mixed.weight_NK.grad().scalar_type(), torch::kFloat32);
      EXPECT_TRUE(mixed.weight_NK.grad().equal(weight_NK.grad()));
      EXPECT_TRUE(mixed.bias_N.grad().equal(bias_N.grad()));

      const torch::NoGradGuard no_grad;
      EXPECT_TRUE(
          MixedLinear(x, mixed.weight_NK, mixed.bias_N, mixed.shadow, result_type).equal(y));
    }
  }
}

TEST(MixedLinear, SumsWeightGradientsOfManyRows) {
  torch::manual_seed(2);
  Layer layer;
  const torch::Tensor x = SmallNumbers({200, 8}, 1);
  const torch::Tensor gradient = SmallNumbers({200, 6}, 1);
  MixedLinear(x, layer.weight_NK, layer.bias_N, layer.shadow, torch::kBFloat16)
      .backward(gradient.to(torch::kBFloat16));
  EXPECT_TRUE(layer.weight_NK.grad().equal(at::mm(gradient.t(), x)));
  EXPECT_TRUE(layer.bias_N.grad().equal(gradient.sum(0)));
}

TEST(MixedLinear, ReadsTheShadowAndNotTheParameter) {
  Layer layer;
  layer.shadow.weight_NK.fill_(2);
  layer.shadow.bias_N.fill_(1);
  const torch::Tensor y = MixedLinear(torch::ones({3, 8}, OnTestDevice()), layer.weight_NK,
                                      layer.bias_N, layer.shadow, torch::kBFloat16);
  EXPECT_TRUE(y.eq(17).all().item<bool>());
}

TEST(MixedLinear, AddsUpTheGradientsOfSeveralUsesInFp32) {
  Layer layer;
  torch::Tensor loss = torch::zeros({}, OnTestDevice());
  // Gradients of 256 and 1 for each weight: bf16 has no 257.
  for (const double value : {256.0, 1.0}) {
    loss = loss + MixedLinear(torch::full({1, 8}, value, OnTestDevice()), layer.weight_NK,
                              layer.bias_N, layer.shadow, torch::kFloat32)
                      .sum();
  }
  loss.backward();
  EXPECT_TRUE(layer.weight_NK.grad().eq(257).all().item<bool>());
}

TEST(MixedLinear, AnOutdatedShadowIsNoticedBetweenForwardAndBackward) {
  Layer layer;
  const torch::Tensor x = torch::ones({1, 8}, OnTestDevice()).requires_grad_();
  const torch::Tensor y =
      MixedLinear(x, layer.weight_NK, layer.bias_N, layer.shadow, torch::kFloat32);
  layer.shadow.weight_NK.mul_(2);
  EXPECT_THROW(y.sum().backward(), c10::Error);
}

TEST(MixedLinear, GradientsOfALayerInAnArenaAreToldOfOnce) {
  Linear layer(8, 6);
  layer->to(golden::TestDevice());
  Arena arena(*layer);
  arena.AddShadows();
  layer->BindShadows([&](const torch::Tensor& parameter) { return arena.ShadowOf(parameter); });
  std::map<std::string, int> told;
  {
    const Arena::GradientWatch watch(arena, [&](const LayoutEntry& entry) { ++told[entry.key]; });
    const torch::Tensor x = torch::ones({4, 8}, OnTestDevice());
    (layer(x).sum() + layer(x * 2).sum()).to(torch::kFloat32).backward();
  }
  EXPECT_EQ(told, (std::map<std::string, int>{{"bias", 1}, {"weight", 1}}));
  arena.CheckAliasing();
  EXPECT_TRUE(layer->weight.grad().eq(12).all().item<bool>());
  EXPECT_TRUE(layer->bias.grad().eq(8).all().item<bool>());
}

}  // namespace
}  // namespace albef
