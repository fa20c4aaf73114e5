// PNG by libpng.
#include <fmt/format.h>
#include <png.h>
#include <zlib.h>

#include <algorithm>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef::image_codecs {
namespace {

constexpr size_t kSignatureBytes = 8;
constexpr size_t kChunkOverhead = 12;  // length, type, checksum

uint32_t ReadBigEndian32(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

// What a walk over the chunks finds.
struct Chunks {
  bool truncated = false;
  // Where the chunk of pixels that the end of the file cuts off begins.
  size_t cut_pixels_offset = 0;
};

// Checks what decides the meaning of the pixels (size, kind, palette); the pixels' own checksums
// are left out of account, as Pillow does.
absl::StatusOr<Chunks> WalkChunks(std::span<const uint8_t> bytes) {
  Chunks chunks;
  bool has_pixels = false;
  size_t offset = kSignatureBytes;
  while (true) {
    const size_t left = bytes.size() - offset;
    const uint8_t* chunk = bytes.data() + offset;
    const bool is_pixels = left >= 8 && std::memcmp(chunk + 4, "IDAT", 4) == 0;
    has_pixels = has_pixels || is_pixels;
    if (left < kChunkOverhead || ReadBigEndian32(chunk) > left - kChunkOverhead) {
      if (!has_pixels) return Damaged("PNG", "it ends before the first pixel");
      chunks.truncated = true;
      if (is_pixels) chunks.cut_pixels_offset = offset;
      return chunks;
    }
    const uint32_t length = ReadBigEndian32(chunk);
    if (std::memcmp(chunk + 4, "IHDR", 4) == 0 || std::memcmp(chunk + 4, "PLTE", 4) == 0) {
      if (crc32(0, chunk + 4, length + 4) != ReadBigEndian32(chunk + 8 + length)) {
        return Damaged("PNG", fmt::format("wrong checksum of chunk {} at byte {}",
                                          std::string(chunk + 4, chunk + 8), offset));
      }
    }
    if (std::memcmp(chunk + 4, "IEND", 4) == 0) return chunks;
    offset += kChunkOverhead + length;
  }
}

// libpng reports errors by a callback that must not return. Every member function that calls it
// comes back here by longjmp, so none of them holds an object with a destructor.
class PngReader {
 public:
  explicit PngReader(std::span<const uint8_t> bytes) : rest_(bytes) {}
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  bool ReadHeader() {
    if (setjmp(jump_) != 0) return false;
    png_ = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, this, OnError, OnWarning, this, Allocate,
                                    [](png_structp, png_voidp memory) { std::free(memory); });
    if (png_ == nullptr) return false;
    info_ = png_create_info_struct(png_);
    if (info_ == nullptr) return false;
    png_set_read_fn(png_, this, Read);
    // Size limits are PrepareImage's; chunks that do not change pixels are passed over.
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_NO_CHANGE);
    png_read_info(png_, info_);
    return true;
  }

  // Rows become RGB, or with `raw_samples` one sample per pixel as in the file (a palette index in
  // 8 bits, 16-bit gray).
  bool Start(bool raw_samples) {
    if (setjmp(jump_) != 0) return false;
    if (raw_samples) {
      png_set_packing(png_);
    } else {
      png_set_strip_16(png_);
      png_set_expand_gray_1_2_4_to_8(png_);
      png_set_gray_to_rgb(png_);
      png_set_strip_alpha(png_);
    }
    num_passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  bool ReadRow(uint8_t* row) {
    if (setjmp(jump_) != 0) return false;
    png_read_row(png_, row, nullptr);
    return true;
  }

  absl::Status Error() const {
    if (out_of_memory_) return absl::ResourceExhaustedError("no memory to decode the PNG");
    return Damaged("PNG", message_);
  }
  bool out_of_memory() const { return out_of_memory_; }

  uint32_t height() const { return png_get_image_height(png_, info_); }
  uint32_t width() const { return png_get_image_width(png_, info_); }
  int bit_depth() const { return png_get_bit_depth(png_, info_); }
  int color_type() const { return png_get_color_type(png_, info_); }
  size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  int num_passes() const { return num_passes_; }

  Palette palette() const {
    png_colorp entries = nullptr;
    int num_entries = 0;
    png_get_PLTE(png_, info_, &entries, &num_entries);
    Palette palette;
    for (size_t i = 0; i < static_cast<size_t>(num_entries); ++i) {
      palette.colors[i] = {entries[i].red, entries[i].green, entries[i].blue};
    }
    return palette;
  }

 private:
  static void OnError(png_structp png, png_const_charp message) {
    auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
    std::strncpy(reader->message_, message, sizeof(reader->message_) - 1);
    std::longjmp(reader->jump_, 1);
  }
  static void OnWarning(png_structp, png_const_charp) {}

  static png_voidp Allocate(png_structp png, png_alloc_size_t size) {
    void* memory = std::malloc(size);
    if (memory == nullptr) static_cast<PngReader*>(png_get_mem_ptr(png))->out_of_memory_ = true;
    return memory;
  }

  static void Read(png_structp png, png_bytep output, size_t count) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader->rest_.size()) png_error(png, "the file ends early");
    std::memcpy(output, reader->rest_.data(), count);
    reader->rest_ = reader->rest_.subspan(count);
  }

  std::span<const uint8_t> rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int num_passes_ = 1;
  bool out_of_memory_ = false;
  char message_[128] = {};
  std::jmp_buf jump_;
};

// OK with the rows that are left black when the file is cut short.
absl::Status ReadRows(PngReader& reader, bool truncated, size_t row_bytes,
                      std::vector<uint8_t>& rows) {
  const size_t num_rows = rows.size() / row_bytes;
  for (int pass = 0; pass < reader.num_passes(); ++pass) {
    for (size_t y = 0; y < num_rows; ++y) {
      if (reader.ReadRow(rows.data() + y * row_bytes)) continue;
      if (truncated && !reader.out_of_memory()) return absl::OkStatus();
      return reader.Error();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodePng(std::span<const uint8_t> bytes, const DecodeOptions& options, Image& image) {
  ASSIGN_OR_RETURN(const Chunks chunks, WalkChunks(bytes));
  std::vector<uint8_t> mended;
  if (chunks.cut_pixels_offset != 0) {
    // libpng decodes a chunk that is whole: shorten its length to what is there.
    mended.assign(bytes.begin(), bytes.end());
    const auto length =
        static_cast<uint32_t>(bytes.size() - chunks.cut_pixels_offset - (kChunkOverhead - 4));
    for (size_t i = 0; i < 4; ++i) {
      mended[chunks.cut_pixels_offset + i] = static_cast<uint8_t>(length >> (24 - 8 * i));
    }
    mended.resize(mended.size() + 4);  // its checksum, which nobody compares
    bytes = mended;
  }

  PngReader reader(bytes);
  if (!reader.ReadHeader()) return reader.Error();
  RETURN_IF_ERROR(PrepareImage(reader.height(), reader.width(), options, image));
  const bool palette = reader.color_type() == PNG_COLOR_TYPE_PALETTE;
  const bool clipped_gray = reader.color_type() == PNG_COLOR_TYPE_GRAY &&
                            reader.bit_depth() == 16 && options.compat == ImageCompat::kOfficial;
  const bool raw_samples = palette || clipped_gray;
  if (!reader.Start(raw_samples)) return reader.Error();

  if (!raw_samples) {
    std::ranges::fill(image.rgb_HWC, uint8_t{0});
    return ReadRows(reader, chunks.truncated, reader.row_bytes(), image.rgb_HWC);
  }
  std::vector<uint8_t> samples(static_cast<size_t>(image.height) * reader.row_bytes());
  RETURN_IF_ERROR(ReadRows(reader, chunks.truncated, reader.row_bytes(), samples));
  if (palette) {
    reader.palette().Expand(samples, image.rgb_HWC.data());
    return absl::OkStatus();
  }
  uint8_t* rgb = image.rgb_HWC.data();
  for (size_t i = 0; i < samples.size(); i += 2) {
    rgb = std::fill_n(rgb, 3, samples[i] != 0 ? uint8_t{255} : samples[i + 1]);
  }
  return absl::OkStatus();
}

}  // namespace albef::image_codecs
