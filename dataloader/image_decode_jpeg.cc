// JPEG by libjpeg-turbo: accurate integer DCT and fancy upsampling (both its defaults, spelt out
// because the pixels depend on them).
#include <cstddef>
#include <cstdio>  // jpeglib.h needs it before
//
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef::image_codecs {
namespace {

// A progressive file may demand a pass over the whole picture for every few bytes. Encoders make
// about ten scans.
constexpr int kMaxScans = 500;

// libjpeg reports errors by a callback that must not return. Every member function that calls it
// comes back here by longjmp, so none of them holds an object with a destructor.
class JpegReader {
 public:
  JpegReader() {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr info) {
      longjmp(static_cast<JpegReader*>(info->client_data)->jump_, 1);
    };
    // Warnings tell of damage that libjpeg has filled in.
    errors_.emit_message = [](j_common_ptr, int) {};
    progress_.progress_monitor = [](j_common_ptr info) {
      const auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
      if (decompress->input_scan_number > kMaxScans) {
        auto* reader = static_cast<JpegReader*>(info->client_data);
        reader->too_many_scans_ = true;
        longjmp(reader->jump_, 1);
      }
    };
    info_.client_data = this;
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info_); }

  bool ReadHeader(std::span<const uint8_t> bytes) {
    if (setjmp(jump_) != 0) return false;
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    // Supplies an end marker when the bytes run out: missing blocks become gray.
    jpeg_mem_src(&info_, bytes.data(), bytes.size());
    jpeg_read_header(&info_, TRUE);
    info_.dct_method = JDCT_ISLOW;
    info_.do_fancy_upsampling = TRUE;
    info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    return true;
  }

  bool Start() {
    if (setjmp(jump_) != 0) return false;
    jpeg_start_decompress(&info_);
    return true;
  }

  bool ReadRow(uint8_t* row) {
    if (setjmp(jump_) != 0) return false;
    jpeg_read_scanlines(&info_, &row, 1);
    return true;
  }

  // Whether CropColumns and SkipRows lead to the pixels of a whole decode, where Start has
  // succeeded: proved by test for one sequential scan in Huffman code of these samplings.
  bool CanReadParts() {
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    if (info_.progressive_mode || info_.arith_code || jpeg_has_multiple_scans(&info_)) return false;
    const jpeg_component_info* component = info_.comp_info;
    const auto is_sampled = [&](int i, int h, int v) {
      return component[i].h_samp_factor == h && component[i].v_samp_factor == v;
    };
    if (info_.num_components == 1) return is_sampled(0, 1, 1);
    return info_.num_components == 3 && is_sampled(1, 1, 1) && is_sampled(2, 1, 1) &&
           (is_sampled(0, 1, 1) || is_sampled(0, 2, 1) || is_sampled(0, 2, 2));
#else
    return false;
#endif
  }

  // Widens the range of columns to whole blocks; what is read then are these columns only.
  bool CropColumns([[maybe_unused]] unsigned& begin, [[maybe_unused]] unsigned& count) {
    if (setjmp(jump_) != 0) return false;
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    jpeg_crop_scanline(&info_, &begin, &count);
#endif
    return true;
  }

  bool SkipRows([[maybe_unused]] unsigned count) {
    if (setjmp(jump_) != 0) return false;
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    return jpeg_skip_scanlines(&info_, count) == count;
#else
    return false;
#endif
  }

  // Why the last call failed.
  absl::Status Error() {
    if (too_many_scans_) return Unsupported("JPEG", "more than 500 scans");
    if (errors_.msg_code == JERR_OUT_OF_MEMORY) {
      return absl::ResourceExhaustedError("no memory to decode the JPEG");
    }
    char message[JMSG_LENGTH_MAX];
    errors_.format_message(reinterpret_cast<j_common_ptr>(&info_), message);
    return Damaged("JPEG", message);
  }

  const jpeg_decompress_struct& info() const { return info_; }

 private:
  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  jpeg_progress_mgr progress_ = {};
  std::jmp_buf jump_;
  bool too_many_scans_ = false;
};

// Four inks stored inverted (as Adobe does and Pillow assumes of all) → RGB with Pillow's rounding.
void CmykRowToRgb(std::span<const uint8_t> cmyk, uint8_t* rgb) {
  for (size_t i = 0; i < cmyk.size(); i += 4) {
    const int light = cmyk[i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const int t = light * (255 - cmyk[i + c]) + 128;
      *rgb++ = static_cast<uint8_t>(std::max(light - ((t + (t >> 8)) >> 8), 0));
    }
  }
}

// Reads the header and checks it. On an error the status is the file's.
absl::Status ReadCheckedHeader(std::span<const uint8_t> bytes, const DecodeOptions& options,
                               JpegReader& reader) {
  if (!reader.ReadHeader(bytes)) return reader.Error();
  const jpeg_decompress_struct& info = reader.info();
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    return Unsupported("JPEG", "neither one, three nor four channels");
  }
  return CheckImageSize(info.image_height, info.image_width, options);
}

// What is left of the decoding of a whole picture.
absl::Status ReadWhole(JpegReader& reader, Image& image) {
  const jpeg_decompress_struct& info = reader.info();
  image.Resize(static_cast<int>(info.image_height), static_cast<int>(info.image_width));
  if (!reader.Start()) return reader.Error();
  std::vector<uint8_t> cmyk;
  if (info.out_color_space == JCS_CMYK) cmyk.resize(static_cast<size_t>(image.width) * 4);
  for (int y = 0; y < image.height; ++y) {
    uint8_t* row = image.mutable_view().row(y);
    if (!reader.ReadRow(cmyk.empty() ? row : cmyk.data())) return reader.Error();
    if (!cmyk.empty()) CmykRowToRgb(cmyk, row);
  }
  return absl::OkStatus();
}

// The rows and columns of `box`, and some beside them: at the border of what is decoded, colour is
// interpolated as at the border of a picture, and the margin keeps that out of the box. False where
// the library refuses.
bool ReadPart(JpegReader& reader, const Box& box, Image& image, Box& part) {
  constexpr int kMargin = 16;  // two blocks of eight; one chroma sample would do
  if (!reader.Start()) return false;
  const int width = static_cast<int>(reader.info().image_width);
  auto left = static_cast<unsigned>(std::max(box.left - kMargin, 0));
  auto count = static_cast<unsigned>(std::min(box.left + box.width + kMargin, width)) - left;
  if (!reader.CropColumns(left, count)) return false;
  image.Resize(box.height, static_cast<int>(count));
  part = {.top = 0,
          .left = box.left - static_cast<int>(left),
          .height = box.height,
          .width = box.width};
  const int skipped = std::max(box.top - kMargin, 0);
  if (skipped > 0 && !reader.SkipRows(static_cast<unsigned>(skipped))) return false;
  for (int y = skipped; y < box.top + box.height; ++y) {
    // The rows of the margin are overwritten.
    if (!reader.ReadRow(image.mutable_view().row(std::max(y - box.top, 0)))) return false;
  }
  // What lies below is not looked at: in a single scan nothing there can be an error.
  return true;
}

}  // namespace

absl::Status DecodeJpeg(std::span<const uint8_t> bytes, const DecodeOptions& options,
                        Image& image) {
  JpegReader reader;
  RETURN_IF_ERROR(ReadCheckedHeader(bytes, options, reader));
  return ReadWhole(reader, image);
}

absl::Status DecodeJpegPart(std::span<const uint8_t> bytes, const DecodeOptions& options,
                            ChooseBox choose, Image& image, Box& part) {
  JpegReader reader;
  RETURN_IF_ERROR(ReadCheckedHeader(bytes, options, reader));
  const Box box = choose(static_cast<int>(reader.info().image_height),
                         static_cast<int>(reader.info().image_width));
  if (reader.CanReadParts()) {
    if (ReadPart(reader, box, image, part)) return absl::OkStatus();
    // The status is a whole decode's.
    part = box;
    return DecodeJpeg(bytes, options, image);
  }
  part = box;
  return ReadWhole(reader, image);
}

}  // namespace albef::image_codecs
