#include "dataloader/resize.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataloader/resize_rows.h"

namespace albef {
namespace {

using resize_rows::kRowPaddingBytes;
using resize_rows::Weights;

// Working memory of one thread.
struct Buffers {
  Weights weights;
  std::vector<uint8_t> row;
  std::vector<uint8_t> resized_rows;
};

void CopyRow(const uint8_t* input, int width, bool mirror, uint8_t* output) {
  if (!mirror) {
    std::memcpy(output, input, static_cast<size_t>(width) * 3);
    return;
  }
  for (const uint8_t* pixel = input + static_cast<size_t>(width) * 3; pixel != input; output += 3) {
    pixel -= 3;
    std::copy_n(pixel, 3, output);
  }
}

}  // namespace

void CropAndResize(ImageView source, const Box& box, MutableImageView output,
                   const ResizeOptions& options) {
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
      CopyRow(input_row(y), box.width, options.mirror,
              rows + static_cast<size_t>(y) * output_bytes);
    }
  } else {
    resize_rows::ComputeWeights(box.width, output.width, weights);
    // Behind most rows there is more of the picture to read; the last ones need a copy.
    const uint8_t* end = source.rgb_HWC.data() + source.rgb_HWC.size();
    const auto has_padding = [&](int y) {
      return static_cast<size_t>(end - input_row(y)) >= input_bytes + kRowPaddingBytes;
    };
    int padded = box.height;
    while (padded > 0 && !has_padding(padded - 1)) --padded;
    resize_rows::ResizeRows({input_row(0), source.row_bytes(), static_cast<size_t>(padded)},
                            weights, options.mirror,
                            {rows, output_bytes, static_cast<size_t>(padded)});
    buffers.row.resize(input_bytes + kRowPaddingBytes);
    for (int y = padded; y < box.height; ++y) {
      std::memcpy(buffers.row.data(), input_row(y), input_bytes);
      resize_rows::ResizeRows({buffers.row.data(), 0, 1}, weights, options.mirror,
                              {rows + static_cast<size_t>(y) * output_bytes, 0, 1});
    }
  }
  if (same_height) return;

  resize_rows::ComputeWeights(box.height, output.height, weights);
  for (int y = 0; y < output.height; ++y) {
    const Weights::Taps& taps = weights.taps[static_cast<size_t>(y)];
    resize_rows::BlendRows(rows + static_cast<size_t>(taps.first) * output_bytes, output_bytes,
                           weights, taps, output.row(y));
  }
}

}  // namespace albef
