#include "dataloader/image_decode.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef {
namespace image_codecs {

absl::Status CheckImageSize(int64_t height, int64_t width, const DecodeOptions& options) {
  if (height < 1 || width < 1) {
    return absl::InvalidArgumentError(fmt::format("the header says {} x {} pixels", width, height));
  }
  if (height > options.max_side || width > options.max_side) {
    return absl::InvalidArgumentError(
        fmt::format("{} x {} pixels: more than the {} allowed on a side; scale the picture down",
                    width, height, options.max_side));
  }
  if (height > options.max_pixels / width) {
    return absl::InvalidArgumentError(
        fmt::format("{} x {} pixels are more than the {} allowed; scale the picture down", width,
                    height, options.max_pixels));
  }
  return absl::OkStatus();
}

absl::Status PrepareImage(int64_t height, int64_t width, const DecodeOptions& options,
                          Image& image) {
  RETURN_IF_ERROR(CheckImageSize(height, width, options));
  image.Resize(static_cast<int>(height), static_cast<int>(width));
  return absl::OkStatus();
}

absl::Status Damaged(std::string_view format, std::string_view reason) {
  return absl::DataLossError(fmt::format("damaged {}: {}", format, reason));
}

absl::Status Unsupported(std::string_view format, std::string_view reason) {
  return absl::InvalidArgumentError(
      fmt::format("unsupported {}: {}; convert it to JPEG or PNG", format, reason));
}

Palette::Palette() {
  for (size_t i = 0; i < colors.size(); ++i) colors[i].fill(static_cast<uint8_t>(i));
}

void Palette::Expand(std::span<const uint8_t> indices, uint8_t* rgb) const {
  for (const uint8_t index : indices) rgb = std::copy_n(colors[index].begin(), 3, rgb);
}

}  // namespace image_codecs

namespace {

using Decoder = absl::Status (*)(std::span<const uint8_t>, const DecodeOptions&, Image&);

Decoder FindDecoder(std::span<const uint8_t> bytes) {
  const auto has = [&](size_t offset, std::string_view signature) {
    return bytes.size() >= offset + signature.size() &&
           std::memcmp(bytes.data() + offset, signature.data(), signature.size()) == 0;
  };
  if (has(0, "\xFF\xD8\xFF")) return image_codecs::DecodeJpeg;
  if (has(0, "\x89PNG\r\n\x1A\n")) return image_codecs::DecodePng;
  if (has(0, "RIFF") && has(8, "WEBP")) return image_codecs::DecodeWebp;
  if (has(0, "BM")) return image_codecs::DecodeBmp;
  if (has(0, "GIF87a") || has(0, "GIF89a")) return image_codecs::DecodeGif;
  return nullptr;
}

// Runs decode(decoder of the bytes' format).
template <typename Decode>
absl::Status WithDecoder(std::span<const uint8_t> bytes, Decode decode) {
  if (bytes.empty()) return absl::InvalidArgumentError("the file is empty");
  const Decoder decoder = FindDecoder(bytes);
  if (decoder == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("not a JPEG, PNG, WebP, BMP or GIF picture: it begins with {:02x}",
                    fmt::join(bytes.first(std::min<size_t>(bytes.size(), 8)), " ")));
  }
  try {
    return decode(decoder);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to decode the picture");
  }
}

}  // namespace

absl::Status DecodeImage(std::span<const uint8_t> bytes, const DecodeOptions& options,
                         Image& image) {
  return WithDecoder(bytes, [&](Decoder decoder) { return decoder(bytes, options, image); });
}

absl::Status DecodeImagePart(std::span<const uint8_t> bytes, const DecodeOptions& options,
                             ChooseBox choose, Image& image, Box& part) {
  return WithDecoder(bytes, [&](Decoder decoder) -> absl::Status {
    if (decoder == image_codecs::DecodeJpeg) {
      return image_codecs::DecodeJpegPart(bytes, options, choose, image, part);
    }
    RETURN_IF_ERROR(decoder(bytes, options, image));
    part = choose(image.height, image.width);
    return absl::OkStatus();
  });
}

}  // namespace albef
