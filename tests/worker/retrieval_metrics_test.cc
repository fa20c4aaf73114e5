#include "worker/retrieval_metrics.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace albef {
namespace {

TEST(RecallFromScores, TakesTheBestOfSeveralCorrectCandidates) {
  // Image 0 owns texts 0 and 1, image 1 owns texts 2 and 3.
  const std::vector<int64_t> images = {0, 1};
  const std::vector<int64_t> texts = {0, 0, 1, 1};
  const torch::Tensor score = torch::tensor({{0.1, 0.9, 0.5, 0.2}, {0.9, 0.8, 0.1, 0.7}});
  const Recall recall = RecallFromScores(score, images, texts);
  EXPECT_DOUBLE_EQ(recall.at_1, 0.5);  // image 0 first, image 1 third
  EXPECT_DOUBLE_EQ(recall.at_5, 1.0);
}

TEST(RecallFromScores, BreaksTiesByIndex) {
  const std::vector<int64_t> group = {0, 1, 2};
  const Recall recall = RecallFromScores(torch::zeros({3, 3}), group, group);
  EXPECT_DOUBLE_EQ(recall.at_1, 1.0 / 3);
}

TEST(RecallFromScores, CountsNanAgainstTheModel) {
  const std::vector<int64_t> group = {0, 1};
  const Recall recall = RecallFromScores(torch::full({2, 2}, std::nan("")), group, group);
  EXPECT_DOUBLE_EQ(recall.at_1, 0.0);
}

TEST(ChanceRecall, AgreesWithRandomScores) {
  std::vector<int64_t> images(40), texts(200);
  std::iota(images.begin(), images.end(), 0);
  for (size_t i = 0; i < texts.size(); ++i) texts[i] = static_cast<int64_t>(i / 5);
  const Recall chance = ChanceRecall(images, texts);
  torch::manual_seed(1);
  double at_1 = 0, at_10 = 0;
  const int rounds = 200;
  for (int i = 0; i < rounds; ++i) {
    const Recall recall = RecallFromScores(torch::rand({40, 200}), images, texts);
    at_1 += recall.at_1 / rounds;
    at_10 += recall.at_10 / rounds;
  }
  // 8000 queries: 4 standard deviations.
  EXPECT_NEAR(at_1, chance.at_1, 0.008);
  EXPECT_NEAR(at_10, chance.at_10, 0.02);
}

}  // namespace
}  // namespace albef
