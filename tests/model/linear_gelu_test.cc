#include "model/linear_gelu.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>
#include <vector>

namespace albef {
namespace {

struct ValueAndGradients {
  torch::Tensor value;
  std::vector<torch::Tensor> gradients;  // of x, weight and bias
};

// With weights for the sum of the values that differ from one to the next.
ValueAndGradients ForwardAndBackward(const torch::Tensor& x, const torch::Tensor& weight,
                                     const torch::Tensor& bias) {
  const std::vector<torch::Tensor> leaves = {x.detach().clone().requires_grad_(),
                                             weight.detach().clone().requires_grad_(),
                                             bias.detach().clone().requires_grad_()};
  const torch::Tensor value = LinearGelu(leaves[0], leaves[1], leaves[2]);
  value.backward(torch::arange(value.numel(), value.options()).view_as(value) / value.numel());
  return {value.detach(), {leaves[0].grad(), leaves[1].grad(), leaves[2].grad()}};
}

// The layer passes its input on: GELU of each number alone.
torch::Tensor GeluOf(const torch::Tensor& u) {
  return LinearGelu(u.unsqueeze(1), torch::ones({1, 1}), torch::zeros({1})).squeeze(1);
}

TEST(LinearGelu, EqualsGeluOfTheLinearLayerAndItsGradients) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({3, 50, 40});
  const torch::Tensor weight = torch::randn({70, 40}) / 4;
  const torch::Tensor bias = torch::randn({70});
  const ValueAndGradients in_float = ForwardAndBackward(x, weight, bias);
  const ValueAndGradients in_double =
      ForwardAndBackward(x.to(torch::kDouble), weight.to(torch::kDouble), bias.to(torch::kDouble));
  EXPECT_EQ(in_float.value.sizes(), (std::vector<int64_t>{3, 50, 70}));
  EXPECT_TRUE(torch::allclose(in_float.value.to(torch::kDouble), in_double.value, 1e-5, 1e-5));
  for (size_t i = 0; i < in_float.gradients.size(); ++i) {
    const torch::Tensor& expected = in_double.gradients[i];
    EXPECT_TRUE(torch::allclose(in_float.gradients[i].to(torch::kDouble), expected, 1e-5,
                                1e-5 * expected.abs().max().item<double>()))
        << i;
  }
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(LinearGelu(x, weight, bias).equal(in_float.value));
}

TEST(LinearGelu, IsExactFarIntoBothTails) {
  const torch::Tensor u = torch::linspace(-13, 13, 100'003);
  const torch::Tensor exact = [&] {
    const torch::Tensor wide = u.to(torch::kDouble);
    return wide * torch::special_erfc(wide * -std::sqrt(0.5)) / 2;
  }();
  // At the left end the exponent is −85, and a rounding of it 85 times one of the value.
  EXPECT_TRUE(torch::allclose(GeluOf(u).to(torch::kDouble), exact, 1e-5, 0));
  const torch::Tensor middle = u.abs().lt(3);
  EXPECT_TRUE(torch::allclose(GeluOf(u).to(torch::kDouble).masked_select(middle),
                              exact.masked_select(middle), 1e-6, 0));
}

TEST(LinearGelu, HandsOnWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const torch::Tensor y = GeluOf(torch::tensor(
      {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity, -1e30F, 1e30F}));
  EXPECT_TRUE(y[0].isnan().item<bool>());
  EXPECT_EQ(y[1].item<float>(), kInfinity);
  EXPECT_FALSE(y[2].isfinite().item<bool>());
  EXPECT_EQ(y[3].item<float>(), 0);
  EXPECT_EQ(y[4].item<float>(), 1e30F);
}

TEST(LinearGelu, TheElementwisePartDoesNotDependOnThreads) {
  const torch::Tensor u = torch::linspace(-5, 5, 200'000);
  const torch::Tensor alone = GeluOf(u);
  const int threads = at::get_num_threads();
  at::set_num_threads(threads + 2);
  EXPECT_TRUE(GeluOf(u).equal(alone));
  at::set_num_threads(threads);
}

TEST(LinearGelu, TakesNoRows) {
  EXPECT_EQ(LinearGelu(torch::zeros({0, 4}), torch::zeros({6, 4}), torch::zeros({6})).sizes(),
            (std::vector<int64_t>{0, 6}));
}

// All three leaves hold numbers that bf16 has.
TEST(MixedLinearGelu, IsGeluOfTheMixedLayerWithinBf16) {
  torch::manual_seed(2);
  const auto rounded = [](const torch::Tensor& x) {
    return x.to(torch::kBFloat16).to(torch::kFloat);
  };
  const torch::Tensor x = rounded(torch::randn({3, 50, 40}));
  const torch::Tensor weight = rounded(torch::randn({70, 40}) / 4);
  const torch::Tensor bias = rounded(torch::randn({70}));
  const ValueAndGradients expected = ForwardAndBackward(x, weight, bias);
  const std::vector<torch::Tensor> leaves = {
      x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()};
  const LinearShadow shadow{.weight_NK = weight.to(torch::kBFloat16),
                            .bias_N = bias.to(torch::kBFloat16)};
  const torch::Tensor value = MixedLinearGelu(leaves[0], leaves[1], leaves[2], shadow);
  EXPECT_EQ(value.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::allclose(value.to(torch::kFloat), expected.value, 1e-2, 2e-2));
  value.backward((torch::arange(value.numel(), torch::kFloat).view_as(value) / value.numel())
                     .to(torch::kBFloat16));
  for (size_t i = 0; i < leaves.size(); ++i) {
    const torch::Tensor& gradient = leaves[i].grad();
    EXPECT_EQ(gradient.scalar_type(), torch::kFloat);
    EXPECT_TRUE(torch::allclose(gradient, expected.gradients[i], 0,
                                1e-2 * expected.gradients[i].abs().max().item<double>()))
        << i;
  }
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(MixedLinearGelu(x, weight, bias, shadow).equal(value));
}

}  // namespace
}  // namespace albef
