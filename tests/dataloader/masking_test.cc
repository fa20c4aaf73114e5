#include "dataloader/masking.h"

#include <gtest/gtest.h>

#include <vector>

namespace albef {
namespace {

constexpr MaskingOptions kOptions = {
    .probability = 0.15, .vocab_size = 1000, .pad_id = 0, .cls_id = 101, .mask_id = 103};

RandomStream Stream(uint64_t iteration) {
  return RandomStream(9, RandomPurpose::kTokenMasking, iteration);
}

TEST(MaskTokens, SelectsAndReplacesInTheSharesOfBert) {
  constexpr size_t kTokens = 400'000;
  const MaskedTokens masked = MaskTokens(std::vector<int64_t>(kTokens, 500), kOptions, Stream(0));
  const double selected = static_cast<double>(masked.masked_index_N.size());
  EXPECT_NEAR(selected / kTokens, 0.15, 0.003);  // 5 standard deviations, as below
  double mask = 0, same = 0;
  std::vector<int> replacement(1000);
  for (const int64_t index : masked.masked_index_N) {
    const int64_t id = masked.input_ids[static_cast<size_t>(index)];
    mask += id == 103;
    same += id == 500;
    ++replacement[static_cast<size_t>(id)];
  }
  // A random replacement hits [MASK] or the token itself once in a thousand.
  EXPECT_NEAR(mask / selected, 0.8 + 0.1 / 1000, 0.009);
  EXPECT_NEAR(same / selected, 0.1 + 0.1 / 1000, 0.007);
  double chi_squared = 0;
  const double expected = selected * 0.1 / 1000;
  for (size_t id = 0; id < replacement.size(); ++id) {
    if (id == 103 || id == 500) continue;
    chi_squared += (replacement[id] - expected) * (replacement[id] - expected) / expected;
  }
  EXPECT_NEAR(chi_squared, 998, 5 * 45);  // special ids included: the whole vocabulary
}

TEST(MaskTokens, NeverSelectsPaddingOrTheFirstToken) {
  MaskingOptions options = kOptions;
  options.probability = 1;
  const std::vector<int64_t> ids = {101, 7, 8, 0, 101, 9, 0, 0};
  const MaskedTokens masked = MaskTokens(ids, options, Stream(1));
  EXPECT_EQ(masked.masked_index_N, (std::vector<int64_t>{1, 2, 5}));
  EXPECT_EQ(masked.masked_label_N, (std::vector<int64_t>{7, 8, 9}));
  for (const size_t kept : {0u, 3u, 4u, 6u, 7u}) EXPECT_EQ(masked.input_ids[kept], ids[kept]);
}

TEST(MaskTokens, KeepsOriginalIdsAsLabelsInAscendingPlaces) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 500; ++i) ids.push_back(200 + i);
  const MaskedTokens masked = MaskTokens(ids, kOptions, Stream(2));
  ASSERT_GT(masked.masked_index_N.size(), 40u);
  std::vector<int64_t> restored = masked.input_ids;
  for (size_t n = 0; n < masked.masked_index_N.size(); ++n) {
    if (n > 0) {
      EXPECT_GT(masked.masked_index_N[n], masked.masked_index_N[n - 1]);
    }
    restored[static_cast<size_t>(masked.masked_index_N[n])] = masked.masked_label_N[n];
  }
  EXPECT_EQ(restored, ids);
  EXPECT_NE(masked.input_ids, ids);
}

TEST(MaskTokens, DrawsNothingForPadding) {
  const std::vector<int64_t> narrow = {101, 7, 8, 101, 9, 10};
  const std::vector<int64_t> wide = {101, 7, 8, 0, 0, 101, 9, 10, 0, 0};
  for (uint64_t iteration = 0; iteration < 50; ++iteration) {
    EXPECT_EQ(MaskTokens(narrow, kOptions, Stream(iteration)).masked_label_N,
              MaskTokens(wide, kOptions, Stream(iteration)).masked_label_N);
  }
}

}  // namespace
}  // namespace albef
