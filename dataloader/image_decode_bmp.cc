// BMP: uncompressed with a palette (1, 4 or 8 bits) or as RGB (24 or 32 bits).
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef::image_codecs {
namespace {

constexpr size_t kFileHeaderBytes = 14;
constexpr uint32_t kUncompressed = 0;
constexpr uint32_t kBitFields = 3;

// Little-endian numbers at known places; those beyond the end are 0.
class Fields {
 public:
  explicit Fields(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  uint32_t U16(size_t offset) const { return Byte(offset) | Byte(offset + 1) << 8; }
  uint32_t U32(size_t offset) const { return U16(offset) | U16(offset + 2) << 16; }

 private:
  uint32_t Byte(size_t offset) const { return offset < bytes_.size() ? bytes_[offset] : 0; }
  std::span<const uint8_t> bytes_;
};

struct Header {
  int64_t height = 0;
  int64_t width = 0;
  bool top_down = false;
  uint32_t bits = 0;
  size_t palette_offset = 0;
  size_t palette_entry_bytes = 4;
  size_t num_colors = 0;
  size_t pixels_offset = 0;
};

absl::StatusOr<Header> ReadHeader(std::span<const uint8_t> bytes) {
  const Fields fields(bytes);
  Header header;
  header.pixels_offset = fields.U32(10);
  const uint32_t info_bytes = fields.U32(kFileHeaderBytes);
  if ((info_bytes != 12 && info_bytes < 40) || info_bytes > 1024 ||
      bytes.size() < kFileHeaderBytes + info_bytes) {
    return Damaged("BMP", "bad header");
  }
  header.palette_offset = kFileHeaderBytes + info_bytes;
  uint32_t compression = kUncompressed;
  if (info_bytes == 12) {
    header.width = fields.U16(18);
    header.height = fields.U16(20);
    header.bits = fields.U16(24);
    header.palette_entry_bytes = 3;
  } else {
    header.width = static_cast<int32_t>(fields.U32(18));
    header.height = static_cast<int32_t>(fields.U32(22));
    header.bits = fields.U16(28);
    compression = fields.U32(30);
    header.num_colors = fields.U32(46);
  }
  if (header.height < 0) {
    header.top_down = true;
    header.height = -header.height;
  }
  // The masks stand at byte 54 whether they belong to the header or follow it.
  const bool plain_masks =
      fields.U32(54) == 0xFF0000 && fields.U32(58) == 0xFF00 && fields.U32(62) == 0xFF;
  if (compression != kUncompressed &&
      !(compression == kBitFields && header.bits == 32 && plain_masks)) {
    return Unsupported("BMP", fmt::format("compression {} with {} bits", compression, header.bits));
  }
  if (header.bits != 1 && header.bits != 4 && header.bits != 8 && header.bits != 24 &&
      header.bits != 32) {
    return Unsupported("BMP", fmt::format("{} bits per pixel", header.bits));
  }
  if (header.bits <= 8 && header.num_colors == 0) header.num_colors = size_t{1} << header.bits;
  return header;
}

Palette ReadPalette(std::span<const uint8_t> bytes, const Header& header) {
  Palette palette;
  for (size_t i = 0; i < std::min<size_t>(header.num_colors, 256); ++i) {
    const size_t offset = header.palette_offset + i * header.palette_entry_bytes;
    if (offset + 3 > bytes.size()) break;
    palette.colors[i] = {bytes[offset + 2], bytes[offset + 1], bytes[offset]};
  }
  return palette;
}

}  // namespace

absl::Status DecodeBmp(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image) {
  ASSIGN_OR_RETURN(const Header header, ReadHeader(bytes));
  RETURN_IF_ERROR(PrepareImage(header.height, header.width, options, image));
  const Palette palette = ReadPalette(bytes, header);
  const size_t width = static_cast<size_t>(image.width);
  const size_t row_bytes = (width * header.bits + 31) / 32 * 4;
  std::vector<uint8_t> indices(header.bits <= 8 ? width : 0);
  std::ranges::fill(image.rgb_HWC, uint8_t{0});
  for (int i = 0; i < image.height; ++i) {
    const size_t offset = header.pixels_offset + static_cast<size_t>(i) * row_bytes;
    if (offset + row_bytes > bytes.size()) break;  // cut short: black
    const uint8_t* source = bytes.data() + offset;
    uint8_t* rgb = image.mutable_view().row(header.top_down ? i : image.height - 1 - i);
    if (header.bits <= 8) {
      const size_t per_byte = 8 / header.bits;
      for (size_t x = 0; x < width; ++x) {
        const size_t shift = 8 - header.bits * (x % per_byte + 1);
        indices[x] =
            static_cast<uint8_t>((source[x / per_byte] >> shift) & ((1u << header.bits) - 1));
      }
      palette.Expand(indices, rgb);
    } else {
      for (size_t x = 0; x < width; ++x, source += header.bits / 8, rgb += 3) {
        rgb[0] = source[2];
        rgb[1] = source[1];
        rgb[2] = source[0];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace albef::image_codecs
