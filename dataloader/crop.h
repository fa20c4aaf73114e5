// The box of a random resized crop (torchvision's RandomResizedCrop, spec §4.3).
#ifndef ALBEF_DATALOADER_CROP_H_
#define ALBEF_DATALOADER_CROP_H_

#include "common/random.h"
#include "dataloader/image.h"

namespace albef {

struct RandomCropOptions {
  // Bounds of the box's share of the picture's area (uniform) …
  double scale_min = 0.2;
  double scale_max = 1.0;
  // … and of its width over its height (uniform in the logarithm).
  double ratio_min = 3.0 / 4.0;
  double ratio_max = 4.0 / 3.0;
};

// Up to ten tries for a box that fits; then the largest centred box whose ratio is within bounds.
// `height` and `width` must be positive. Advances `random`.
Box SampleCrop(int height, int width, const RandomCropOptions& options, RandomStream& random);

}  // namespace albef

#endif  // ALBEF_DATALOADER_CROP_H_
