// Encoded picture → RGB, as Pillow 9.5 does it for the authors' `Image.open(path).convert('RGB')`.
//
// JPEG, PNG and WebP, and the plain kinds of BMP and GIF, recognised by content. Gray and palettes
// are expanded, CMYK is converted, alpha and tRNS are dropped (not blended), 16-bit samples keep
// their high byte, EXIF orientation is ignored, an animation gives its first picture (spec §4.3).
// As in the authors' code a file cut short is no error once its header is whole: what is missing of
// a JPEG is gray 128, of a PNG or GIF black (index 0).
//
// The bytes are hostile input: whatever they are, the result is a picture or a status. Safe to call
// from any thread.
#ifndef ALBEF_DATALOADER_IMAGE_DECODE_H_
#define ALBEF_DATALOADER_IMAGE_DECODE_H_

#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "dataloader/image.h"

namespace albef {

struct DecodeOptions {
  // kOfficial: 16-bit gray is clipped at 255 instead of scaled.
  ImageCompat compat = ImageCompat::kCorrected;
  // A header that promises more is refused before memory is taken for it. The default is where
  // Pillow begins to call a file a decompression bomb.
  int64_t max_pixels = 178'956'970;
  // The same for a picture's height and width. What a resize needs grows with the longer side; only
  // PNG and BMP can say more than this default.
  int64_t max_side = 65'535;
};

// Decodes into `image`, reusing its memory; on an error its content is unspecified.
// INVALID_ARGUMENT: not a picture, a kind that is not supported, or too large. DATA_LOSS: damaged.
// RESOURCE_EXHAUSTED: no memory. The message is the reason; the caller knows the path.
absl::Status DecodeImage(std::span<const uint8_t> bytes, const DecodeOptions& options,
                         Image& image);

// Called once with height and width; the box must lie within the picture.
using ChooseBox = absl::FunctionRef<Box(int height, int width)>;

// As DecodeImage, but only the pixels of the box that `choose` returns are wanted: `image` becomes
// the picture or a part of it, and `part` says where in it the box is. The pixels of the box and
// the status are those of DecodeImage. A JPEG in one scan is decoded where the box is (and what is
// above it only as far as its bits must be read); tests/dataloader/image_part_test.cc and the fuzz
// target prove that equal for the subsamplings for which it is done. Others are decoded whole.
absl::Status DecodeImagePart(std::span<const uint8_t> bytes, const DecodeOptions& options,
                             ChooseBox choose, Image& image, Box& part);

}  // namespace albef

#endif  // ALBEF_DATALOADER_IMAGE_DECODE_H_
