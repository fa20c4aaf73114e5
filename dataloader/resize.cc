#include "dataloader/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataloader/simd.h"

namespace albef {
namespace {

constexpr int kPrecisionBits = 22;
constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);
constexpr size_t kBlock = 32;

// The source pixels that one output position reads, and where their weights begin.
struct Taps {
  int first;
  int count;
  size_t weight_index;
};

struct Weights {
  std::vector<Taps> taps;
  std::vector<int32_t> values;
};

// Cubic convolution kernel with a = -1/2.
double CubicKernel(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kA;
  return 0.0;
}

// The order of the operations on doubles decides the last bit of the integers: do not rearrange.
void ComputeWeights(int input_size, int output_size, Weights& weights) {
  const double scale = static_cast<double>(input_size) / output_size;
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2.0 * filter_scale;
  const double inverse = 1.0 / filter_scale;
  weights.taps.clear();
  weights.values.clear();
  std::vector<double> exact;
  for (int o = 0; o < output_size; ++o) {
    const double centre = (o + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), input_size);
    exact.clear();
    double sum = 0.0;
    for (int i = first; i < last; ++i) {
      exact.push_back(CubicKernel((i - centre + 0.5) * inverse));
      sum += exact.back();
    }
    weights.taps.push_back({first, last - first, weights.values.size()});
    for (double weight : exact) {
      if (sum != 0.0) weight /= sum;
      const double scaled = weight * (1 << kPrecisionBits);
      weights.values.push_back(static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
}

// One row. Reads and writes one byte past the end of either row.
ALBEF_SIMD_CLONES void ResizeRow(const uint8_t* source, const Taps* taps, const int32_t* values,
                                 int output_width, uint8_t* output) {
  for (int x = 0; x < output_width; ++x) {
    const uint8_t* pixel = source + static_cast<size_t>(taps[x].first) * 3;
    const int32_t* weight = values + taps[x].weight_index;
    Pixel4 sum = {};
    for (int k = 0; k < taps[x].count; ++k) {
      sum += LoadPixel(pixel + 3 * k) * weight[k];
    }
    sum = (sum + kHalf) >> kPrecisionBits;
    sum = sum < 0 ? Pixel4{} : sum;
    sum = sum > 255 ? Pixel4{} + 255 : sum;
    StorePixel(sum, output + 3 * x);
  }
}

// `count` values of one output row, from as many rows of the source as there are taps.
inline __attribute__((always_inline)) void BlendValues(const uint8_t* source, size_t row_bytes,
                                                       const int32_t* weight, int num_taps,
                                                       size_t count, uint8_t* output) {
  int32_t sums[kBlock];
  for (size_t i = 0; i < count; ++i) sums[i] = kHalf;
  for (int k = 0; k < num_taps; ++k, source += row_bytes) {
    for (size_t i = 0; i < count; ++i) sums[i] += source[i] * weight[k];
  }
  for (size_t i = 0; i < count; ++i) {
    output[i] = static_cast<uint8_t>(std::clamp(sums[i] >> kPrecisionBits, 0, 255));
  }
}

ALBEF_SIMD_CLONES void BlendRows(const uint8_t* source, size_t row_bytes, const int32_t* weight,
                                 int num_taps, uint8_t* output) {
  size_t i = 0;
  // Blocks of a fixed size stay in registers.
  for (; i + kBlock <= row_bytes; i += kBlock) {
    BlendValues(source + i, row_bytes, weight, num_taps, kBlock, output + i);
  }
  BlendValues(source + i, row_bytes, weight, num_taps, row_bytes - i, output + i);
}

// Working memory of one thread.
struct Buffers {
  Weights weights;
  std::vector<uint8_t> row;
  std::vector<uint8_t> resized_rows;
};

}  // namespace

void CropAndResize(ImageView source, const Box& box, MutableImageView output) {
  thread_local Buffers buffers;
  Weights& weights = buffers.weights;
  const size_t input_bytes = static_cast<size_t>(box.width) * 3;
  const size_t output_bytes = output.row_bytes();
  const auto input_row = [&](int y) {
    return source.row(box.top + y) + static_cast<size_t>(box.left) * 3;
  };

  const bool same_height = box.height == output.height;
  // Rows of the box at their final width; straight into the output when they are final.
  uint8_t* rows = output.rgb_HWC.data();
  if (!same_height) {
    buffers.resized_rows.resize(static_cast<size_t>(box.height) * output_bytes);
    rows = buffers.resized_rows.data();
  }
  if (box.width == output.width) {
    for (int y = 0; y < box.height; ++y) {
      std::memcpy(rows + static_cast<size_t>(y) * output_bytes, input_row(y), input_bytes);
    }
  } else {
    ComputeWeights(box.width, output.width, weights);
    buffers.row.resize(input_bytes + 1 + output_bytes + 1);
    uint8_t* input = buffers.row.data();
    uint8_t* row = input + input_bytes + 1;
    for (int y = 0; y < box.height; ++y) {
      std::memcpy(input, input_row(y), input_bytes);
      ResizeRow(input, weights.taps.data(), weights.values.data(), output.width, row);
      std::memcpy(rows + static_cast<size_t>(y) * output_bytes, row, output_bytes);
    }
  }
  if (same_height) return;

  ComputeWeights(box.height, output.height, weights);
  for (int y = 0; y < output.height; ++y) {
    const Taps& taps = weights.taps[static_cast<size_t>(y)];
    BlendRows(rows + static_cast<size_t>(taps.first) * output_bytes, output_bytes,
              weights.values.data() + taps.weight_index, taps.count, output.row(y));
  }
}

}  // namespace albef
