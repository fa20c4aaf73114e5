// Scenes of the synthetic dataset: what an image shows, and the English that says so.
//
// A scene holds only what its captions state (shape, colour, size, place, count, relation,
// background). Every caption of a scene states all of it, so captions of different scenes differ
// and retrieval on unseen scenes is well-posed; what captions do not state (exact place, tilt,
// clutter, noise) is left to the drawing. All functions are pure and safe to call from any thread.
#ifndef ALBEF_DATALOADER_SYNTHETIC_SCENE_H_
#define ALBEF_DATALOADER_SYNTHETIC_SCENE_H_

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "common/random.h"

namespace albef {

// clang-format off
enum class SyntheticShape : uint8_t {
  kCircle, kSquare, kTriangle, kStar, kRing, kCross, kDiamond, kHeart, kCrescent
};
enum class SyntheticColor : uint8_t {
  kRed, kOrange, kYellow, kGreen, kCyan, kBlue, kPurple, kPink, kBrown, kBlack, kWhite, kGray
};
enum class SyntheticPattern : uint8_t { kPlain, kStriped, kShaded, kCheckered };
enum class SyntheticSize : uint8_t { kSmall, kLarge };
enum class SyntheticPlace : uint8_t { kLeft, kRight, kTop, kBottom, kCenter };
enum class SyntheticKind : uint8_t {
  kSingle,   // objects[0], of some size at some place
  kGroup,    // `count` times objects[0]
  kLeftOf,   // objects[0] left of objects[1]
  kAbove,    // objects[0] above objects[1]
  kInside,   // objects[0] inside objects[1]
  kBetween,  // objects[0] between objects[1] and objects[2], which are in ascending order
};
// clang-format on

struct SyntheticObject {
  SyntheticShape shape = SyntheticShape::kCircle;
  SyntheticColor color = SyntheticColor::kRed;

  auto operator<=>(const SyntheticObject&) const = default;
};

// Fields that its kind does not use keep their defaults: equal scenes compare equal.
struct SyntheticScene {
  SyntheticKind kind = SyntheticKind::kSingle;
  std::vector<SyntheticObject> objects;
  int count = 1;
  SyntheticSize size = SyntheticSize::kSmall;
  SyntheticPlace place = SyntheticPlace::kCenter;
  SyntheticColor background = SyntheticColor::kWhite;
  SyntheticPattern pattern = SyntheticPattern::kPlain;

  auto operator<=>(const SyntheticScene&) const = default;
};

// sRGB, 0 to 255.
std::array<double, 3> SyntheticRgb(SyntheticColor color);

// More than ten million different scenes. Colours that meet in one scene are well apart.
SyntheticScene DrawSyntheticScene(RandomStream& random);

// `count` different captions, at most 50: lower-case words between single spaces, no more than
// kMaxSyntheticWords.
std::vector<std::string> DrawSyntheticCaptions(const SyntheticScene& scene, int count,
                                               RandomStream& random);

// With special tokens a caption fits into the 25 of the authors' pretraining.
inline constexpr int kMaxSyntheticWords = 23;

// Lines of a BERT vocabulary: [PAD] [UNK] [CLS] [SEP] [MASK], ASCII punctuation, digits and letters
// alone and as ## pieces (so that any English caption has tokens), then every word that captions
// can hold.
std::vector<std::string> SyntheticVocabulary();

}  // namespace albef

#endif  // ALBEF_DATALOADER_SYNTHETIC_SCENE_H_
