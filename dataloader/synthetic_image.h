// Draws scenes of the synthetic dataset, and writes JPEG.
#ifndef ALBEF_DATALOADER_SYNTHETIC_IMAGE_H_
#define ALBEF_DATALOADER_SYNTHETIC_IMAGE_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/random.h"
#include "dataloader/image.h"
#include "dataloader/synthetic_scene.h"

namespace albef {

// Draws the scene at a drawn size (sides of about `size_px`, at most 30 % longer than wide or wider
// than long) with everything that captions leave open: exact places, tilt, shades, clutter, noise.
// Shapes are anti-aliased by their exact distance.
Image DrawSyntheticImage(const SyntheticScene& scene, int size_px, RandomStream& random);

// Baseline JPEG, quality 1 to 100. RESOURCE_EXHAUSTED when memory is short.
absl::StatusOr<std::string> EncodeJpeg(ImageView image, int quality);

}  // namespace albef

#endif  // ALBEF_DATALOADER_SYNTHETIC_IMAGE_H_
