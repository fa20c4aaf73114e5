#include "dataloader/normalize.h"

#include <cstddef>

namespace albef {

const NormalizeTable& GetNormalizeTable() {
  static const NormalizeTable table = [] {
    NormalizeTable values;
    for (size_t c = 0; c < 3; ++c) {
      for (size_t p = 0; p < 256; ++p) {
        values[c][p] = (static_cast<float>(p) / 255.0f - kImageMean[c]) / kImageStd[c];
      }
    }
    return values;
  }();
  return table;
}

void Normalize(ImageView image, std::span<float> output_CHW) {
  const NormalizeTable& table = GetNormalizeTable();
  const size_t num_pixels = image.rgb_HWC.size() / 3;
  for (size_t c = 0; c < 3; ++c) {
    float* channel = output_CHW.data() + c * num_pixels;
    for (size_t i = 0; i < num_pixels; ++i) channel[i] = table[c][image.rgb_HWC[3 * i + c]];
  }
}

}  // namespace albef
