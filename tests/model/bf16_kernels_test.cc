#include "model/bf16_kernels.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <utility>

namespace albef {
namespace {

TEST(ColumnSums, EqualThoseInDoubleForAnyShapeAndLayout) {
  torch::manual_seed(1);
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {7, 255}, {100, 256}, {513, 1000}, {3, 2048}}) {
    const torch::Tensor x = torch::randn({rows, columns}).to(torch::kBFloat16);
    const torch::Tensor expected = x.to(torch::kDouble).sum(0);
    const torch::Tensor sums = ColumnSums(x);
    EXPECT_EQ(sums.scalar_type(), torch::kFloat);
    EXPECT_TRUE(torch::allclose(sums.to(torch::kDouble), expected, 1e-5, 1e-4));
    EXPECT_TRUE(ColumnSums(x.t().contiguous().t()).equal(sums));
    const int threads = at::get_num_threads();
    at::set_num_threads(threads + 2);
    EXPECT_TRUE(ColumnSums(x).equal(sums));
    at::set_num_threads(threads);
  }
}

TEST(ColumnSums, OfNoRowsAreZero) {
  EXPECT_TRUE(ColumnSums(torch::zeros({0, 300}, torch::kBFloat16)).equal(torch::zeros({300})));
}

}  // namespace
}  // namespace albef
