#include "model/embedding_lookup.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <vector>

namespace albef {
namespace {

constexpr int64_t kPaddingId = 0;

// A text with padding, in which words come once and more often.
torch::Tensor Ids() { return torch::tensor({{5, 3, 5, 0}, {3, 5, 8, 0}}, torch::kLong); }

torch::Tensor DenseGradient(const torch::Tensor& weight, const torch::Tensor& outer) {
  const torch::Tensor leaf = weight.detach().clone().requires_grad_();
  at::embedding(leaf, Ids(), kPaddingId).backward(outer);
  return leaf.grad();
}

class EmbeddingLookup : public testing::Test {
 protected:
  EmbeddingLookup() { torch::manual_seed(1); }

  torch::Tensor weight_ = torch::randn({10, 33}).requires_grad_();
  torch::Tensor outer_ = torch::randn({2, 4, 33});
};

TEST_F(EmbeddingLookup, FindsRows) {
  EXPECT_TRUE(LookUp(weight_, Ids(), kPaddingId).equal(at::embedding(weight_, Ids())));
}

TEST_F(EmbeddingLookup, AddsToTheParametersGradientWhereItLiesBitByBitAsADenseOne) {
  const torch::Tensor before = torch::randn({10, 33});
  const torch::Tensor gradient = before.clone();
  weight_.mutable_grad() = gradient;
  LookUp(weight_, Ids(), kPaddingId).backward(outer_);
  EXPECT_TRUE(weight_.grad().is_same(gradient));
  EXPECT_TRUE(gradient.equal(before + DenseGradient(weight_, outer_)));
  EXPECT_TRUE(gradient[kPaddingId].equal(before[kPaddingId]));
}

TEST_F(EmbeddingLookup, MeetsTheGradientOfATiedHead) {
  weight_.mutable_grad() = torch::zeros({10, 33});
  const torch::Tensor head = torch::randn({7, 10});
  const torch::Tensor states = torch::randn({7, 33});
  const torch::Tensor found = LookUp(weight_, Ids(), kPaddingId);
  ((found * outer_).sum() + (at::linear(states, weight_) * head).sum()).backward();
  EXPECT_TRUE(weight_.grad().equal(at::mm(head.t(), states) + DenseGradient(weight_, outer_)));
}

TEST_F(EmbeddingLookup, OfPaddingAloneGivesNoGradient) {
  weight_.mutable_grad() = torch::zeros({10, 33});
  LookUp(weight_, torch::zeros({2, 4}, torch::kLong), kPaddingId).backward(outer_);
  EXPECT_TRUE(weight_.grad().equal(torch::zeros({10, 33})));
}

}  // namespace
}  // namespace albef
