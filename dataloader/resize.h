// Bicubic resampling, bit for bit Pillow 9.5's (spec §4.3): cubic kernel with a = -1/2 widened by
// the reduction factor, horizontal pass first, rounded to 8 bits between the passes.
//
// The weights are 22-bit integers, so the result is the same on every machine. Thread-safe.
#ifndef ALBEF_DATALOADER_RESIZE_H_
#define ALBEF_DATALOADER_RESIZE_H_

#include "dataloader/image.h"

namespace albef {

struct ResizeOptions {
  bool mirror = false;  // left and right are exchanged
};

// Cuts `box` out of `source` and resizes it to the size of `output`; no pixel outside the box is
// read. The box must lie inside `source`, all sizes must be positive, and the two pictures must not
// overlap in memory.
void CropAndResize(ImageView source, const Box& box, MutableImageView output,
                   const ResizeOptions& options = {});

}  // namespace albef

#endif  // ALBEF_DATALOADER_RESIZE_H_
