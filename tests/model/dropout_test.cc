#include "model/dropout.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace albef {
namespace {

// Of what one block of the mask holds, and more.
constexpr int64_t kMany = 1'000'003;

torch::Tensor MaskOf(uint64_t seed, int64_t size, double probability = 0.1) {
  torch::manual_seed(seed);
  return Dropout(torch::ones({size}), probability, true).ne(0);
}

TEST(Dropout, DropsAsManyAsItShouldAndScalesTheOthers) {
  for (const double probability : {0.1, 0.5, 0.9}) {
    torch::manual_seed(1);
    const torch::Tensor y = Dropout(torch::full({kMany}, 3.0F), probability, true);
    const double dropped = y.eq(0).sum().item<double>();
    // Six standard deviations of a binomial law.
    EXPECT_NEAR(dropped, kMany * probability,
                6 * std::sqrt(kMany * probability * (1 - probability)));
    EXPECT_TRUE(torch::allclose(y.masked_select(y.ne(0)),
                                torch::tensor(static_cast<float>(3 / (1 - probability))), 1e-6));
  }
}

TEST(Dropout, IsNothingOutsideOfTrainingOrWithoutProbability) {
  const torch::Tensor x = torch::randn({5, 7});
  EXPECT_TRUE(Dropout(x, 0.1, false).equal(x));
  EXPECT_TRUE(Dropout(x, 0, true).equal(x));
  EXPECT_TRUE(Dropout(x, 1, true).equal(torch::zeros_like(x)));
}

TEST(Dropout, DropsOfTheGradientWhatItDroppedOfTheValue) {
  for (const torch::ScalarType type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    torch::manual_seed(2);
    const torch::Tensor x = torch::rand({300, 129}).add_(1).to(type).requires_grad_();
    const torch::Tensor y = Dropout(x, 0.3, true);
    const torch::Tensor weight = torch::rand({300, 129}).add_(1).to(type);
    y.backward(weight);
    EXPECT_EQ(x.grad().scalar_type(), type);
    EXPECT_TRUE(x.grad().ne(0).equal(y.ne(0)));
    EXPECT_TRUE(torch::allclose(x.grad(), weight * y.ne(0) / 0.7, 1e-2));
  }
}

TEST(Dropout, TheMaskFollowsFromTheGeneratorAlone) {
  const torch::Tensor mask = MaskOf(3, kMany);
  EXPECT_TRUE(MaskOf(3, kMany).equal(mask));
  EXPECT_FALSE(MaskOf(4, kMany).equal(mask));
  EXPECT_TRUE(MaskOf(3, 70'000).equal(mask.narrow(0, 0, 70'000)));
  const int threads = at::get_num_threads();
  at::set_num_threads(threads + 2);
  EXPECT_TRUE(MaskOf(3, kMany).equal(mask));
  at::set_num_threads(threads);
  for (const torch::ScalarType type : {torch::kDouble, torch::kBFloat16}) {
    torch::manual_seed(3);
    EXPECT_TRUE(Dropout(torch::ones({kMany}, type), 0.1, true).ne(0).equal(mask));
  }
  torch::manual_seed(3);
  const torch::Tensor turned = torch::ones({1000, 30}).t();
  EXPECT_TRUE(Dropout(turned, 0.1, true).ne(0).flatten().equal(mask.narrow(0, 0, 30'000)));
}

TEST(Dropout, AMaskAppliesToAnyPieceOfTheTensor) {
  torch::manual_seed(6);
  const uint64_t seed = DrawDropoutSeed();
  torch::manual_seed(6);
  const torch::Tensor whole = Dropout(torch::ones({kMany}), 0.1, true);
  const DropoutMask mask(0.1, seed);
  torch::Tensor pieces = torch::ones({kMany});
  auto* values = pieces.mutable_data_ptr<float>();
  for (int64_t begin = 0; begin < kMany; begin += 12'345) {
    mask.Apply(values + begin, values + begin, begin, std::min<int64_t>(12'345, kMany - begin));
  }
  EXPECT_TRUE(pieces.equal(whole));
}

// Each pair of draws, of one mask at any distance or of two masks, must agree as often as
// independent ones do.
TEST(Dropout, DrawsAreIndependent) {
  constexpr double kProbability = 0.5;
  const torch::Tensor mask = MaskOf(5, kMany, kProbability);
  const auto expect_independent = [](const torch::Tensor& a, const torch::Tensor& b) {
    const auto size = static_cast<double>(a.numel());
    EXPECT_NEAR(a.eq(b).sum().item<double>(), size / 2, 6 * std::sqrt(size / 4));
  };
  for (const int64_t distance : {1, 2, 3, 4, 8, 64, 257, 768, 1 << 14, 3 << 14, 1 << 17}) {
    expect_independent(mask.narrow(0, 0, kMany - distance),
                       mask.narrow(0, distance, kMany - distance));
  }
  for (const uint64_t seed : {6, 7, 1 << 20}) {
    expect_independent(mask, MaskOf(seed, kMany, kProbability));
  }
  torch::manual_seed(5);
  const torch::Tensor first = Dropout(torch::ones({kMany}), kProbability, true).ne(0);
  expect_independent(first, Dropout(torch::ones({kMany}), kProbability, true).ne(0));
}

TEST(Dropout, HidesNoNumberThatIsNotFinite) {
  torch::manual_seed(8);
  const torch::Tensor x = torch::full({1000}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(Dropout(x, 0.5, true).isnan().all().item<bool>());
}

TEST(Dropout, OfNothingIsNothing) {
  EXPECT_EQ(Dropout(torch::empty({0, 4}), 0.5, true).numel(), 0);
}

}  // namespace
}  // namespace albef
