// uint8 pixels → the network's input: (p / 255 - mean) / std in float32, channel first (spec §4.3).
//
// Batches leave the dataloader as uint8; the model normalises on its device with this arithmetic.
// This is the reference for it.
#ifndef ALBEF_DATALOADER_NORMALIZE_H_
#define ALBEF_DATALOADER_NORMALIZE_H_

#include <array>
#include <cstdint>
#include <span>

#include "dataloader/image.h"

namespace albef {

inline constexpr std::array<float, 3> kImageMean = {0.48145466f, 0.4578275f, 0.40821073f};
inline constexpr std::array<float, 3> kImageStd = {0.26862954f, 0.26130258f, 0.27577711f};

// table[c][p]: the normalised value of p in channel c.
using NormalizeTable = std::array<std::array<float, 256>, 3>;
const NormalizeTable& GetNormalizeTable();

// `output_CHW` holds 3 * height * width values.
void Normalize(ImageView image, std::span<float> output_CHW);

}  // namespace albef

#endif  // ALBEF_DATALOADER_NORMALIZE_H_
