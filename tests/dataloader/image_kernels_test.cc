// The vectorised inner loops against plain ones, at sizes and values that pictures rarely have.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/random.h"
#include "dataloader/resize.h"
#include "dataloader/resize_rows.h"
#include "dataloader/warp.h"

namespace albef {
namespace {

using resize_rows::kRowPaddingBytes;
using resize_rows::Weights;

std::vector<uint8_t> Noise(size_t count, RandomStream& random) {
  std::vector<uint8_t> bytes(count);
  // Extremes are where sums overflow and clamp.
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(random.Bernoulli(0.5) ? random.Below(256) : 255 * random.Below(2));
  }
  return bytes;
}

Image NoiseImage(int height, int width, RandomStream& random) {
  Image image;
  image.Resize(height, width);
  image.rgb_HWC = Noise(image.rgb_HWC.size(), random);
  return image;
}

TEST(ResizeRows, HaveTheSameBitsOnEveryProcessor) {
  Weights weights;
  for (uint64_t i = 0; i < 400; ++i) {
    RandomStream random(1, RandomPurpose::kSynthetic, i);
    const int input = static_cast<int>(1 + random.Below(i % 10 == 0 ? 4000 : 300));
    const int output = static_cast<int>(1 + random.Below(300));
    resize_rows::ComputeWeights(input, output, weights);

    const size_t num_rows = 1 + random.Below(6);
    const size_t stride = static_cast<size_t>(input) * 3 + kRowPaddingBytes;
    const std::vector<uint8_t> pixels = Noise(num_rows * stride, random);
    const size_t output_bytes = static_cast<size_t>(output) * 3;
    std::vector<uint8_t> straight;
    for (const bool mirror : {false, true}) {
      std::vector<uint8_t> expected(num_rows * output_bytes), actual(expected);
      const resize_rows::Rows<const uint8_t> source{pixels.data(), stride, num_rows};
      resize_rows::ResizeRowsPortably(source, weights, mirror,
                                      {expected.data(), output_bytes, num_rows});
      resize_rows::ResizeRows(source, weights, mirror, {actual.data(), output_bytes, num_rows});
      ASSERT_EQ(actual, expected) << input << " to " << output;
      if (!mirror) {
        straight = actual;
        continue;
      }
      for (size_t y = 0; y < num_rows; ++y) {
        for (size_t x = 0; x < static_cast<size_t>(output); ++x) {
          const uint8_t* pixel = &actual[y * output_bytes + 3 * x];
          const size_t opposite = static_cast<size_t>(output) - 1 - x;
          ASSERT_TRUE(std::equal(pixel, pixel + 3, &straight[y * output_bytes + 3 * opposite]));
        }
      }
    }

    const size_t row_bytes = 1 + random.Below(200);
    const std::vector<uint8_t> rows = Noise(static_cast<size_t>(input) * row_bytes, random);
    const Weights::Taps& taps = weights.taps[random.Below(weights.taps.size())];
    std::vector<uint8_t> expected(row_bytes), actual(row_bytes);
    const uint8_t* first = rows.data() + static_cast<size_t>(taps.first) * row_bytes;
    resize_rows::BlendRowsPortably(first, row_bytes, weights, taps, expected.data());
    resize_rows::BlendRows(first, row_bytes, weights, taps, actual.data());
    ASSERT_EQ(actual, expected) << input << " to " << output << ", rows of " << row_bytes;
  }
}

TEST(CropAndResize, MirrorsWhatItWouldGive) {
  for (uint64_t i = 0; i < 200; ++i) {
    RandomStream random(2, RandomPurpose::kSynthetic, i);
    const Image source = NoiseImage(static_cast<int>(1 + random.Below(40)),
                                    static_cast<int>(1 + random.Below(40)), random);
    // Some have the size of the output already.
    const int side = i % 3 == 0 ? source.width : static_cast<int>(1 + random.Below(40));
    Image straight, mirrored;
    straight.Resize(i % 2 == 0 ? source.height : side, side);
    mirrored.Resize(straight.height, side);
    const Box box{.height = source.height, .width = source.width};
    CropAndResize(source.view(), box, straight.mutable_view());
    CropAndResize(source.view(), box, mirrored.mutable_view(), {.mirror = true});
    for (int y = 0; y < straight.height; ++y) {
      for (int x = 0; x < side; ++x) {
        ASSERT_TRUE(std::equal(straight.view().row(y) + 3 * x, straight.view().row(y) + 3 * x + 3,
                               mirrored.view().row(y) + 3 * (side - 1 - x)));
      }
    }
  }
}

// warpAffine as OpenCV's documentation and code describe it, pixel by pixel.
Image PlainWarp(const Affine& m, const Image& source) {
  const double determinant = m.a11 * m.a22 - m.a12 * m.a21;
  const double d = determinant != 0.0 ? 1.0 / determinant : 0.0;
  const double a11 = m.a22 * d, a22 = m.a11 * d, a12 = m.a12 * -d, a21 = m.a21 * -d;
  const double b1 = -a11 * m.b1 - a12 * m.b2, b2 = -a21 * m.b1 - a22 * m.b2;
  const auto round = [](double value) { return static_cast<int>(std::nearbyint(value * 1024)); };
  const auto at = [&](int x, int y, int c) {
    if (x < 0 || y < 0 || x >= source.width || y >= source.height) return 128;
    return int{source.view().row(y)[3 * x + c]};
  };
  Image output;
  output.Resize(source.height, source.width);
  for (int y = 0; y < source.height; ++y) {
    for (int x = 0; x < source.width; ++x) {
      const int px = (round(a11 * x) + round(a12 * y + b1) + 16) >> 5;
      const int py = (round(a21 * x) + round(a22 * y + b2) + 16) >> 5;
      const int fx = px & 31, fy = py & 31, column = px >> 5, row = py >> 5;
      for (int c = 0; c < 3; ++c) {
        const int sum =
            at(column, row, c) * (32 - fx) * (32 - fy) + at(column + 1, row, c) * fx * (32 - fy) +
            at(column, row + 1, c) * (32 - fx) * fy + at(column + 1, row + 1, c) * fx * fy;
        output.mutable_view().row(y)[3 * x + c] = static_cast<uint8_t>((sum + 512) >> 10);
      }
    }
  }
  return output;
}

TEST(Warp, HasTheBitsOfThePlainOne) {
  std::vector<uint8_t> scratch;
  for (uint64_t i = 0; i < 3000; ++i) {
    RandomStream random(3, RandomPurpose::kSynthetic, i);
    const Image source = NoiseImage(static_cast<int>(1 + random.Below(50)),
                                    static_cast<int>(1 + random.Below(50)), random);
    const auto number = [&] { return random.Uniform(-1.5, 1.5); };
    // Shifts by whole and broken pixels, shears, and anything.
    Affine m{1, 0, 0, 0, 1, 0};
    if (i % 2 == 0) m.b1 = i % 3 == 0 ? 60 * number() : std::nearbyint(20 * number());
    if (i % 4 < 2) m.b2 = i % 3 == 0 ? 60 * number() : std::nearbyint(20 * number());
    if (i % 5 < 2) m.a12 = number();
    if (i % 5 == 1) m.a21 = number();
    if (i % 7 == 0) m.a11 = number(), m.a22 = number();
    Image warped = source;
    Warp(m, warped.mutable_view(), scratch);
    ASSERT_EQ(warped.rgb_HWC, PlainWarp(m, source).rgb_HWC) << i;
  }
}

}  // namespace
}  // namespace albef
