#include "dataloader/crop.h"

#include <algorithm>
#include <cmath>

namespace albef {

Box SampleCrop(int height, int width, const RandomCropOptions& options, RandomStream& random) {
  const double area = static_cast<double>(height) * width;
  const double log_ratio_min = std::log(options.ratio_min);
  const double log_ratio_max = std::log(options.ratio_max);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double box_area = area * random.Uniform(options.scale_min, options.scale_max);
    const double ratio = std::exp(random.Uniform(log_ratio_min, log_ratio_max));
    const double box_width = std::nearbyint(std::sqrt(box_area * ratio));
    const double box_height = std::nearbyint(std::sqrt(box_area / ratio));
    if (box_width < 1 || box_width > width || box_height < 1 || box_height > height) continue;
    Box box{.height = static_cast<int>(box_height), .width = static_cast<int>(box_width)};
    box.top = static_cast<int>(random.Below(static_cast<uint64_t>(height - box.height) + 1));
    box.left = static_cast<int>(random.Below(static_cast<uint64_t>(width - box.width) + 1));
    return box;
  }

  Box box{.height = height, .width = width};
  const double ratio = static_cast<double>(width) / height;
  if (ratio < options.ratio_min) {
    box.height = static_cast<int>(std::nearbyint(width / options.ratio_min));
  } else if (ratio > options.ratio_max) {
    box.width = static_cast<int>(std::nearbyint(height * options.ratio_max));
  }
  // Rounding must not carry a box out of a picture whose ratio is barely out of bounds.
  box.height = std::clamp(box.height, 1, height);
  box.width = std::clamp(box.width, 1, width);
  box.top = (height - box.height) / 2;
  box.left = (width - box.width) / 2;
  return box;
}

}  // namespace albef
