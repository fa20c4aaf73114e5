// RandAugment with two operations of level 7, as the authors set it up (spec §4.3).
//
// The pixel arithmetic is that of the OpenCV and NumPy calls in the authors' code, bit for bit. Two
// of their operations are broken (spec §8.A: AutoContrast turns any channel without black into
// white, Sharpness wraps around at overshoots); ImageCompat::kOfficial keeps them so. Thread-safe.
#ifndef ALBEF_DATALOADER_AUGMENT_H_
#define ALBEF_DATALOADER_AUGMENT_H_

#include <array>
#include <cstdint>
#include <vector>

#include "common/random.h"
#include "dataloader/image.h"

namespace albef {

enum class AugmentOp {
  kIdentity,
  kAutoContrast,
  kEqualize,
  kRotate,      // 21 degrees about the centre
  kSharpness,   // factor 1.36
  kBrightness,  // factor 1.36
  kShearX,      // 0.21
  kShearY,
  kTranslateX,  // 7 pixels, whatever the size
  kTranslateY,
};
inline constexpr int kNumAugmentOps = 10;

struct AugmentStep {
  AugmentOp op = AugmentOp::kIdentity;
  // Sense of the geometric operations; the others ignore it.
  bool negative = false;
  // An operation that was drawn is carried out with probability one half.
  bool applied = true;
};

using AugmentPlan = std::array<AugmentStep, 2>;

// Both operations uniform over the ten, with replacement. Always makes the same number of draws.
AugmentPlan SampleAugment(RandomStream& random);

// Carries out one step in place. `scratch` is working memory, reused from call to call.
void ApplyAugment(const AugmentStep& step, ImageCompat compat, MutableImageView image,
                  std::vector<uint8_t>& scratch);

}  // namespace albef

#endif  // ALBEF_DATALOADER_AUGMENT_H_
