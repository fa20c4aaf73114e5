#include "dataloader/augment.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#include "dataloader/simd.h"

namespace albef {
namespace {

constexpr float kFactor = 1.36f;
constexpr double kShear = static_cast<double>(0.21f);
constexpr double kTranslatePixels = 7.0;
constexpr double kRotateDegrees = 21.0;
constexpr uint8_t kFill = 128;

// One value for each value and channel.
using LookupTable = std::array<std::array<uint8_t, 256>, 3>;
using Histogram = std::array<std::array<int64_t, 256>, 3>;

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

Histogram CountValues(MutableImageView image) {
  Histogram histogram = {};
  for (size_t i = 0; i < image.rgb_HWC.size(); i += 3) {
    for (size_t c = 0; c < 3; ++c) ++histogram[c][image.rgb_HWC[i + c]];
  }
  return histogram;
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

// (x, y) → (a11 x + a12 y + b1, a21 x + a22 y + b2).
struct Affine {
  double a11, a12, b1;
  double a21, a22, b2;
};

Affine Inverse(const Affine& m) {
  const double determinant = m.a11 * m.a22 - m.a12 * m.a21;
  const double d = determinant != 0.0 ? 1.0 / determinant : 0.0;
  Affine inverse;
  inverse.a11 = m.a22 * d;
  inverse.a22 = m.a11 * d;
  inverse.a12 = m.a12 * -d;
  inverse.a21 = m.a21 * -d;
  inverse.b1 = -inverse.a11 * m.b1 - inverse.a12 * m.b2;
  inverse.b2 = -inverse.a21 * m.b1 - inverse.a22 * m.b2;
  return inverse;
}

// Where output pixels come from: positions are in 1/1024 pixel, rounded half to even.
constexpr double kPositionScale = 1024.0;
int ToPosition(double value) { return static_cast<int>(std::nearbyint(value * kPositionScale)); }

// A picture inside a frame of fill values, so that no neighbour needs a test.
struct Framed {
  // Two on each side: positions beyond are moved to the outermost, where all four neighbours are
  // fill.
  static constexpr int kMargin = 2;
  const uint8_t* pixels;  // of the frame's corner
  size_t row_bytes;
};

// One row: pixel x comes from (x_positions[x] + x_start, y_positions[x] + y_start). Writes one byte
// past its end and reads up to two past the last neighbour.
ALBEF_SIMD_CLONES void WarpRow(const Framed& source, int height, int width, const int* x_positions,
                               int x_start, const int* y_positions, int y_start, uint8_t* output) {
  for (int x = 0; x < width; ++x) {
    // 1/32 pixel, rounded.
    const int x_position = (x_positions[x] + x_start + 16) >> 5;
    const int y_position = (y_positions[x] + y_start + 16) >> 5;
    const int fx = x_position & 31;
    const int fy = y_position & 31;
    const int column = std::clamp(x_position >> 5, -Framed::kMargin, width) + Framed::kMargin;
    const int row = std::clamp(y_position >> 5, -Framed::kMargin, height) + Framed::kMargin;
    const uint8_t* upper = source.pixels + static_cast<size_t>(row) * source.row_bytes +
                           static_cast<size_t>(column) * 3;
    const uint8_t* lower = upper + source.row_bytes;
    const Pixel4 sum = LoadPixel(upper) * ((32 - fx) * (32 - fy)) +
                       LoadPixel(upper + 3) * (fx * (32 - fy)) +
                       LoadPixel(lower) * ((32 - fx) * fy) + LoadPixel(lower + 3) * (fx * fy);
    StorePixel((sum + 512) >> 10, output + 3 * x);
  }
}

// Moves content by `forward`: bilinear with weights of 1/32, gray where nothing comes from.
void Warp(const Affine& forward, MutableImageView image, std::vector<uint8_t>& scratch) {
  const int height = image.height;
  const int width = image.width;
  const size_t margin_bytes = Framed::kMargin * 3;
  const size_t framed_bytes = image.row_bytes() + 2 * margin_bytes;
  const size_t num_framed = static_cast<size_t>(height) + 2 * Framed::kMargin;
  // The frame, one output row, and a byte of padding for each.
  scratch.assign((num_framed * framed_bytes + 1) + (image.row_bytes() + 1), kFill);
  for (int y = 0; y < height; ++y) {
    std::memcpy(
        scratch.data() + (static_cast<size_t>(y) + Framed::kMargin) * framed_bytes + margin_bytes,
        image.row(y), image.row_bytes());
  }
  const Framed source{scratch.data(), framed_bytes};
  uint8_t* output = scratch.data() + num_framed * framed_bytes + 1;

  const Affine backward = Inverse(forward);
  thread_local std::vector<int> positions;
  positions.resize(2 * static_cast<size_t>(width));
  int* x_positions = positions.data();
  int* y_positions = x_positions + width;
  for (int x = 0; x < width; ++x) {
    x_positions[x] = ToPosition(backward.a11 * x);
    y_positions[x] = ToPosition(backward.a21 * x);
  }
  for (int y = 0; y < height; ++y) {
    WarpRow(source, height, width, x_positions, ToPosition(backward.a12 * y + backward.b1),
            y_positions, ToPosition(backward.a22 * y + backward.b2), output);
    std::memcpy(image.row(y), output, image.row_bytes());
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

void FlipHorizontally(MutableImageView image) {
  for (int y = 0; y < image.height; ++y) {
    uint8_t* left = image.row(y);
    uint8_t* right = left + image.row_bytes() - 3;
    for (; left < right; left += 3, right -= 3) std::swap_ranges(left, left + 3, right);
  }
}

}  // namespace albef
