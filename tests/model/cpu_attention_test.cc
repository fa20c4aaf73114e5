#include "model/cpu_attention.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "model/dropout.h"

namespace albef {
namespace {

constexpr int64_t kHeads = 3;

struct Case {
  int64_t batch, queries, keys, width;
  bool masked;
  double dropout;
};

// (B,rows,A·d) leaves.
std::vector<torch::Tensor> Leaves(const Case& c) {
  torch::manual_seed(1);
  std::vector<torch::Tensor> leaves;
  for (const int64_t rows : {c.queries, c.keys, c.keys}) {
    leaves.push_back(torch::randn({c.batch, rows, kHeads * c.width}, torch::kDouble));
  }
  return leaves;
}

// Result and gradients of the three leaves in double, all computed in `type`.
using Computation = std::function<torch::Tensor(const std::vector<torch::Tensor>& projections_BATd,
                                                const AttentionOptions& options)>;
std::vector<torch::Tensor> ResultAndGradients(const Case& c, torch::ScalarType type,
                                              const Computation& compute) {
  std::vector<torch::Tensor> leaves;
  std::vector<torch::Tensor> split;
  for (const torch::Tensor& leaf : Leaves(c)) {
    // Rounded first, so that all types compute from the same numbers.
    leaves.push_back(leaf.to(torch::kBFloat16).to(type).requires_grad_());
    split.push_back(SplitHeads(leaves.back(), kHeads));
  }
  AttentionOptions options{.mask_B11S = std::nullopt, .dropout = c.dropout};
  if (c.masked) {
    torch::Tensor mask_B11S = torch::zeros({c.batch, 1, 1, c.keys}, type);
    mask_B11S.slice(0, 1).slice(3, c.keys / 2).fill_(-10000);
    options.mask_B11S = mask_B11S;
  }
  torch::manual_seed(7);
  const torch::Tensor out = MergeHeads(compute(split, options));
  EXPECT_EQ(out.scalar_type(), type);
  out.backward(torch::linspace(-1, 1, out.numel(), torch::kDouble).view_as(out).to(type));
  std::vector<torch::Tensor> results = {out.detach().to(torch::kDouble)};
  for (const torch::Tensor& leaf : leaves) results.push_back(leaf.grad().to(torch::kDouble));
  return results;
}

torch::Tensor Fused(const std::vector<torch::Tensor>& split, const AttentionOptions& options) {
  return CpuAttention(split[0], split[1], split[2], options);
}

torch::Tensor Plain(const std::vector<torch::Tensor>& split, const AttentionOptions& options) {
  const double scale = 1 / std::sqrt(static_cast<double>(split[0].size(3)));
  torch::Tensor scores = at::matmul(split[0], split[1].transpose(2, 3)) * scale;
  if (options.mask_B11S) scores = scores + *options.mask_B11S;
  return at::matmul(Dropout(at::softmax(scores, 3), options.dropout, true), split[2]);
}

constexpr const char* kNames[] = {"result", "query", "key", "value"};

TEST(CpuAttention, EqualsThePlainOperatorsInEveryType) {
  const std::vector<Case> cases = {
      {.batch = 2, .queries = 1, .keys = 1, .width = 1, .masked = false, .dropout = 0},
      {.batch = 2, .queries = 5, .keys = 17, .width = 6, .masked = true, .dropout = 0},
      {.batch = 3, .queries = 40, .keys = 33, .width = 16, .masked = true, .dropout = 0.3},
      {.batch = 2, .queries = 257, .keys = 257, .width = 64, .masked = false, .dropout = 0.1}};
  for (const Case& c : cases) {
    const std::vector<torch::Tensor> expected = ResultAndGradients(c, torch::kDouble, Plain);
    for (const auto& [type, tolerance] :
         {std::pair(torch::kDouble, 1e-13), {torch::kFloat, 2e-6}, {torch::kBFloat16, 1e-2}}) {
      const std::vector<torch::Tensor> actual = ResultAndGradients(c, type, Fused);
      for (size_t i = 0; i < actual.size(); ++i) {
        const double scale = std::max(1.0, expected[i].abs().max().item<double>());
        EXPECT_LT((actual[i] - expected[i]).abs().max().item<double>(), tolerance * scale)
            << kNames[i] << " in " << c10::toString(type) << " of " << c.queries << " × " << c.keys;
      }
    }
  }
}

TEST(CpuAttention, SideBySideIsTheSameAsApart) {
  for (const torch::ScalarType type : {torch::kFloat, torch::kBFloat16}) {
    torch::manual_seed(2);
    const torch::Tensor side_by_side = torch::randn({2, 19, 3 * kHeads * 8}).to(type);
    const torch::Tensor packed = side_by_side.clone().requires_grad_();
    const torch::Tensor apart = side_by_side.clone().requires_grad_();
    const std::vector<torch::Tensor> qkv = apart.chunk(3, 2);
    const torch::Tensor expected = MergeHeads(CpuAttention(
        SplitHeads(qkv[0], kHeads), SplitHeads(qkv[1], kHeads), SplitHeads(qkv[2], kHeads), {}));
    const torch::Tensor actual = CpuSelfAttention(packed, kHeads);
    EXPECT_TRUE(actual.equal(expected));
    const torch::Tensor gradient = torch::randn(actual.sizes()).to(type);
    actual.backward(gradient);
    expected.backward(gradient);
    // A product may add up in another order for matrices that lie otherwise in memory.
    EXPECT_TRUE(
        torch::allclose(packed.grad(), apart.grad(), type == torch::kFloat ? 1e-5 : 1e-2, 1e-6));
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(CpuSelfAttention(side_by_side, kHeads).equal(expected));
  }
}

TEST(CpuAttention, HasTheSameBitsWithAnyNumberOfThreads) {
  const Case c{.batch = 3, .queries = 20, .keys = 31, .width = 16, .masked = true, .dropout = 0.2};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const std::vector<torch::Tensor> alone = ResultAndGradients(c, torch::kFloat, Fused);
  at::set_num_threads(threads + 3);
  const std::vector<torch::Tensor> together = ResultAndGradients(c, torch::kFloat, Fused);
  at::set_num_threads(threads);
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_TRUE(together[i].equal(alone[i])) << kNames[i];
}

TEST(CpuAttention, WhatIsMaskedHasNoPartInTheResult) {
  torch::manual_seed(3);
  const torch::Tensor query = torch::randn({1, 2, 4, 8});
  const torch::Tensor key = torch::randn({1, 2, 6, 8});
  torch::Tensor value = torch::randn({1, 2, 6, 8});
  torch::Tensor mask_B11S = torch::zeros({1, 1, 1, 6});
  mask_B11S.slice(3, 4).fill_(-10000);
  const torch::Tensor out = CpuAttention(query, key, value, {.mask_B11S = mask_B11S});
  value.slice(2, 4).fill_(1e30);
  EXPECT_TRUE(CpuAttention(query, key, value, {.mask_B11S = mask_B11S}).equal(out));
}

TEST(CpuAttention, HandsOnWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::nanf("0x123"),
                          std::numeric_limits<float>::infinity()}) {
    torch::manual_seed(4);
    torch::Tensor query = torch::randn({1, 1, 3, 8});
    query[0][0][1].fill_(bad);
    query.requires_grad_();
    const torch::Tensor key = torch::randn({1, 1, 20, 8}).requires_grad_();
    const torch::Tensor out = CpuAttention(query, key, torch::randn({1, 1, 20, 8}), {});
    EXPECT_TRUE(out.select(2, 1).isnan().all().item<bool>()) << bad;
    EXPECT_TRUE(out.select(2, 0).isfinite().all().item<bool>()) << bad;
    out.sum().backward();
    EXPECT_TRUE(key.grad().isnan().any().item<bool>()) << bad;
  }
}

TEST(CpuAttention, RefusesTypesThatItCannotCompute) {
  const torch::Tensor half = torch::zeros({1, 1, 2, 4}, torch::kHalf);
  EXPECT_THROW(CpuAttention(half, half, half, {}), c10::Error);
}

}  // namespace
}  // namespace albef
