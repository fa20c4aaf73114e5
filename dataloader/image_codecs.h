// The decoders behind DecodeImage, one file each. They see bytes of their own format's signature.
#ifndef ALBEF_DATALOADER_IMAGE_CODECS_H_
#define ALBEF_DATALOADER_IMAGE_CODECS_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "dataloader/image.h"
#include "dataloader/image_decode.h"

namespace albef::image_codecs {

absl::Status DecodeJpeg(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image);
// As DecodeImagePart.
absl::Status DecodeJpegPart(std::span<const uint8_t> bytes, const DecodeOptions& options,
                            ChooseBox choose, Image& image, Box& part);
absl::Status DecodePng(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image);
absl::Status DecodeWebp(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image);
absl::Status DecodeBmp(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image);
absl::Status DecodeGif(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image);

// Refuses sizes that are empty or beyond the limit.
absl::Status CheckImageSize(int64_t height, int64_t width, const DecodeOptions& options);
// The same, then makes room for the picture.
absl::Status PrepareImage(int64_t height, int64_t width, const DecodeOptions& options,
                          Image& image);

// "damaged {format}: {reason}" and "unsupported {format}: {reason}; …", as DATA_LOSS and
// INVALID_ARGUMENT.
absl::Status Damaged(std::string_view format, std::string_view reason);
absl::Status Unsupported(std::string_view format, std::string_view reason);

// 256 colours. Entries that a file does not define are a gray ramp, as in Pillow.
struct Palette {
  std::array<std::array<uint8_t, 3>, 256> colors;

  Palette();
  // Writes the colours of `indices` to `rgb`.
  void Expand(std::span<const uint8_t> indices, uint8_t* rgb) const;
};

}  // namespace albef::image_codecs

#endif  // ALBEF_DATALOADER_IMAGE_CODECS_H_
