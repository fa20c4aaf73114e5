#include "dataloader/sample_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

namespace albef {
namespace {

using ::testing::HasSubstr;

std::vector<int64_t> Order(uint64_t seed, int64_t epoch, int64_t size) {
  const SampleOrder order(seed, epoch, size);
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < size; ++i) samples.push_back(order.At(i));
  return samples;
}

TEST(SampleOrder, EveryEpochIsAPermutation) {
  std::vector<int64_t> sizes = {1023, 1024, 1025, 4095, 4096, 4097, 7919, 65536, 65537, 99991};
  for (int64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (const int64_t size : sizes) {
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> samples = Order(11, epoch, size);
      std::sort(samples.begin(), samples.end());
      std::vector<int64_t> all(static_cast<size_t>(size));
      std::iota(all.begin(), all.end(), 0);
      ASSERT_EQ(samples, all) << "size " << size << ", epoch " << epoch;
    }
  }
}

TEST(SampleOrder, DiffersByEpochAndSeed) {
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (int64_t epoch = 0; epoch < 10; ++epoch) orders.insert(Order(seed, epoch, 50));
  }
  EXPECT_EQ(orders.size(), 100u);
}

TEST(SampleOrder, ReachesEveryOrderOfThree) {
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 200; ++epoch) orders.insert(Order(1, epoch, 3));
  EXPECT_EQ(orders.size(), 6u);
}

TEST(SampleOrder, PutsEverySampleEverywhereEquallyOften) {
  constexpr int64_t kSize = 10;
  constexpr int kEpochs = 20000;
  int count[kSize][kSize] = {};
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const SampleOrder order(3, epoch, kSize);
    for (int64_t i = 0; i < kSize; ++i) ++count[i][order.At(i)];
  }
  double chi_squared = 0;
  for (const auto& row : count) {
    for (const int c : row) {
      const double excess = c - kEpochs / 10.0;
      chi_squared += excess * excess / (kEpochs / 10.0);
    }
  }
  // 81 degrees of freedom: mean 81, standard deviation 12.7.
  EXPECT_LT(chi_squared, 81 + 5 * 12.7);
}

TEST(SampleOrder, NeighboursAreUnrelated) {
  // Successive positions land in the same half of the data half of the time.
  constexpr int64_t kSize = 100'000;
  const SampleOrder order(5, 0, kSize);
  int same = 0;
  for (int64_t i = 0; i + 1 < kSize; ++i) {
    same += (order.At(i) < kSize / 2) == (order.At(i + 1) < kSize / 2);
  }
  EXPECT_NEAR(same, kSize / 2, 5 * 158);  // 5 standard deviations
}

TEST(SampleOrder, HoldsTheLargestDataSets) {
  constexpr int64_t kSize = int64_t{1} << 40;
  const SampleOrder order(5, 2, kSize + 1);
  std::set<int64_t> samples;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t sample = order.At(kSize - i);
    EXPECT_GE(sample, 0);
    EXPECT_LE(sample, kSize);
    samples.insert(sample);
  }
  EXPECT_EQ(samples.size(), 1000u);
}

EpochPlan Plan(int64_t num_samples, int virtual_ranks, int batch_size) {
  return *EpochPlan::Create({num_samples, virtual_ranks, batch_size});
}

TEST(EpochPlan, CountsStepsAsTheAuthorsLoader) {
  EXPECT_EQ(Plan(100, 1, 10).steps_per_epoch(), 10);
  EXPECT_EQ(Plan(109, 1, 10).steps_per_epoch(), 10);
  EXPECT_EQ(Plan(100, 8, 3).steps_per_epoch(), 4);  // ⌈100 / 8⌉ = 13
  EXPECT_EQ(Plan(11, 2, 3).steps_per_epoch(), 2);   // 12 positions for 11 samples
}

TEST(EpochPlan, NamesTheLargestStepThatFits) {
  const absl::Status status =
      EpochPlan::Create({.num_samples = 5, .virtual_ranks = 2, .batch_size = 3}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("2 × 3 = 6"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("largest possible product is 5"));
  EXPECT_FALSE(EpochPlan::Create({.num_samples = 0}).ok());
  EXPECT_FALSE(EpochPlan::Create({.num_samples = 5, .virtual_ranks = 0}).ok());
}

TEST(EpochPlan, CoversEachEpochWithoutAGapAndWrapsBeyondTheLastSample) {
  for (const auto& [n, v, b] : {std::tuple{24, 3, 2}, {25, 3, 2}, {11, 2, 3}, {7, 7, 1}}) {
    const EpochPlan plan = Plan(n, v, b);
    int64_t sample_position = 0;
    for (int64_t iteration = 0; iteration < 3 * plan.steps_per_epoch(); ++iteration) {
      for (int rank = 0; rank < v; ++rank) {
        for (int slot = 0; slot < b; ++slot, ++sample_position) {
          const EpochPlan::Place place = plan.At(iteration, rank, slot);
          EXPECT_EQ(place.sample_position, sample_position);
          EXPECT_EQ(place.epoch, sample_position / plan.samples_per_epoch());
          EXPECT_EQ(place.epoch, plan.Epoch(iteration));
          EXPECT_EQ(place.order_position, sample_position % plan.samples_per_epoch() % n);
        }
      }
    }
  }
}

}  // namespace
}  // namespace albef
