// Affine warps of pictures, bit for bit OpenCV's warpAffine with bilinear interpolation: weights of
// 1/32, gray where nothing comes from.
#ifndef ALBEF_DATALOADER_WARP_H_
#define ALBEF_DATALOADER_WARP_H_

#include <cstdint>
#include <vector>

#include "dataloader/image.h"

namespace albef {

// (x, y) → (a11 x + a12 y + b1, a21 x + a22 y + b2).
struct Affine {
  double a11, a12, b1;
  double a21, a22, b2;
};

// Moves content by `forward`, in place. `scratch` is working memory, reused from call to call.
// Integer arithmetic after the positions of the first row and column: the same on every machine.
// Safe to call from any thread.
void Warp(const Affine& forward, MutableImageView image, std::vector<uint8_t>& scratch);

}  // namespace albef

#endif  // ALBEF_DATALOADER_WARP_H_
