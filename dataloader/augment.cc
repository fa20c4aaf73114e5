#include "dataloader/augment.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "common/simd.h"
#include "dataloader/warp.h"

namespace albef {
namespace {

constexpr float kFactor = 1.36f;
constexpr double kShear = static_cast<double>(0.21f);
constexpr double kTranslatePixels = 7.0;
constexpr double kRotateDegrees = 21.0;

// One value for each value and channel.
using LookupTable = std::array<std::array<uint8_t, 256>, 3>;
using Histogram = std::array<std::array<uint32_t, 256>, 3>;

LookupTable IdentityTable() {
  LookupTable table;
  for (auto& channel : table) {
    for (size_t i = 0; i < 256; ++i) channel[i] = static_cast<uint8_t>(i);
  }
  return table;
}

void Map(const LookupTable& table, MutableImageView image) {
  for (size_t i = 0; i < image.rgb_HWC.size(); i += 3) {
    for (size_t c = 0; c < 3; ++c) image.rgb_HWC[i + c] = table[c][image.rgb_HWC[i + c]];
  }
}

// Four pixels at a time into histograms of their own, because equal values in a row, as pictures
// have them, would wait for each other.
Histogram CountValues(MutableImageView image) {
  constexpr size_t kWays = 4;
  std::array<Histogram, kWays> counts = {};
  const std::span<const uint8_t> bytes = image.rgb_HWC;
  size_t i = 0;
  for (; i + 3 * kWays <= bytes.size(); i += 3 * kWays) {
    for (size_t way = 0; way < kWays; ++way) {
      for (size_t c = 0; c < 3; ++c) ++counts[way][c][bytes[i + 3 * way + c]];
    }
  }
  for (; i < bytes.size(); ++i) ++counts[0][i % 3][bytes[i]];
  for (size_t way = 1; way < kWays; ++way) {
    for (size_t c = 0; c < 3; ++c) {
      for (size_t v = 0; v < 256; ++v) counts[0][c][v] += counts[way][c][v];
    }
  }
  return counts[0];
}

// Stretches each channel to the whole range.
void AutoContrast(ImageCompat compat, MutableImageView image) {
  const Histogram histogram = CountValues(image);
  LookupTable table = IdentityTable();
  for (size_t c = 0; c < 3; ++c) {
    int low = 0;
    int high = 255;
    while (low < 255 && histogram[c][static_cast<size_t>(low)] == 0) ++low;
    while (high > low && histogram[c][static_cast<size_t>(high)] == 0) --high;
    if (high == low) continue;
    const double scale = 255.0 / (high - low);
    // The authors negate the minimum as an 8-bit number.
    const double offset = (compat == ImageCompat::kOfficial ? (256 - low) % 256 : -low) * scale;
    for (size_t i = 0; i < 256; ++i) {
      const double value = static_cast<double>(i) * scale + offset;
      table[c][i] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
    }
  }
  Map(table, image);
}

// Gives each channel a flat histogram.
void Equalize(MutableImageView image) {
  const Histogram histogram = CountValues(image);
  const int64_t num_pixels = static_cast<int64_t>(image.height) * image.width;
  LookupTable table = IdentityTable();
  for (size_t c = 0; c < 3; ++c) {
    size_t highest = 255;
    while (highest > 0 && histogram[c][highest] == 0) --highest;
    const int64_t step = (num_pixels - histogram[c][highest]) / 255;
    if (step == 0) continue;
    int64_t below = step / 2;
    for (size_t i = 0; i < 256; ++i) {
      table[c][i] = static_cast<uint8_t>(std::min<int64_t>(below / step, 255));
      below += histogram[c][i];
    }
  }
  Map(table, image);
}

void Brighten(MutableImageView image) {
  LookupTable table;
  for (size_t i = 0; i < 256; ++i) {
    const float value = std::min(static_cast<float>(i) * kFactor, 255.0f);
    for (auto& channel : table) channel[i] = static_cast<uint8_t>(value);
  }
  Map(table, image);
}

// Rows without their first and last pixel: smoothed + 1.36 (original - smoothed), where the
// smoothed value is the rounded mean of the 3x3 neighbourhood with the centre counted five times.
template <bool kClamp>
inline __attribute__((always_inline)) void SharpenRow(const uint8_t* above, const uint8_t* row,
                                                      const uint8_t* below, size_t count,
                                                      uint8_t* output) {
  for (size_t i = 0; i < count; ++i) {
    // `row` and its neighbours start one pixel to the left of the output.
    const int centre = row[i + 3];
    const int sum = above[i] + above[i + 3] + above[i + 6] + row[i] + 5 * centre + row[i + 6] +
                    below[i] + below[i + 3] + below[i + 6];
    const int smoothed = (2 * sum + 13) / 26;
    const float change = kFactor * static_cast<float>(centre - smoothed);
    float value = static_cast<float>(smoothed) + change;
    if constexpr (kClamp) value = std::min(std::max(value, 0.0f), 255.0f);
    output[i] = static_cast<uint8_t>(static_cast<int>(value));
  }
}

ALBEF_SIMD_CLONES void SharpenRowClamped(const uint8_t* above, const uint8_t* row,
                                         const uint8_t* below, size_t count, uint8_t* output) {
  SharpenRow<true>(above, row, below, count, output);
}

ALBEF_SIMD_CLONES void SharpenRowWrapped(const uint8_t* above, const uint8_t* row,
                                         const uint8_t* below, size_t count, uint8_t* output) {
  SharpenRow<false>(above, row, below, count, output);
}

void Sharpen(ImageCompat compat, MutableImageView image, std::vector<uint8_t>& scratch) {
  if (image.height < 3 || image.width < 3) return;
  scratch.assign(image.rgb_HWC.begin(), image.rgb_HWC.end());
  const ImageView original{image.height, image.width, scratch};
  const auto sharpen_row = compat == ImageCompat::kOfficial ? SharpenRowWrapped : SharpenRowClamped;
  for (int y = 1; y + 1 < image.height; ++y) {
    sharpen_row(original.row(y - 1), original.row(y), original.row(y + 1), image.row_bytes() - 6,
                image.row(y) + 3);
  }
}

Affine Rotation(double degrees, int height, int width) {
  const double radians = degrees * (std::acos(-1.0) / 180.0);
  const double a = std::cos(radians);
  const double b = std::sin(radians);
  const double cx = width / 2.0;
  const double cy = height / 2.0;
  return {a, b, (1.0 - a) * cx - b * cy, -b, a, b * cx + (1.0 - a) * cy};
}

}  // namespace

AugmentPlan SampleAugment(RandomStream& random) {
  AugmentPlan plan;
  for (AugmentStep& step : plan) {
    step.op = static_cast<AugmentOp>(random.Below(kNumAugmentOps));
    step.applied = random.Bernoulli(0.5);
    step.negative = random.Bernoulli(0.5);
  }
  return plan;
}

void ApplyAugment(const AugmentStep& step, ImageCompat compat, MutableImageView image,
                  std::vector<uint8_t>& scratch) {
  if (!step.applied) return;
  const double sign = step.negative ? -1.0 : 1.0;
  switch (step.op) {
    case AugmentOp::kIdentity:
      return;
    case AugmentOp::kAutoContrast:
      return AutoContrast(compat, image);
    case AugmentOp::kEqualize:
      return Equalize(image);
    case AugmentOp::kRotate:
      return Warp(Rotation(sign * kRotateDegrees, image.height, image.width), image, scratch);
    case AugmentOp::kSharpness:
      return Sharpen(compat, image, scratch);
    case AugmentOp::kBrightness:
      return Brighten(image);
    case AugmentOp::kShearX:
      return Warp({1, sign * kShear, 0, 0, 1, 0}, image, scratch);
    case AugmentOp::kShearY:
      return Warp({1, 0, 0, sign * kShear, 1, 0}, image, scratch);
    case AugmentOp::kTranslateX:
      return Warp({1, 0, -sign * kTranslatePixels, 0, 1, 0}, image, scratch);
    case AugmentOp::kTranslateY:
      return Warp({1, 0, 0, 0, 1, -sign * kTranslatePixels}, image, scratch);
  }
}

}  // namespace albef
