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

}  // namespace

absl::Status DecodeJpeg(std::span<const uint8_t> bytes, const DecodeOptions& options,
                        Image& image) {
  JpegReader reader;
  if (!reader.ReadHeader(bytes)) return reader.Error();
  const jpeg_decompress_struct& info = reader.info();
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    return Unsupported("JPEG", "neither one, three nor four channels");
  }
  RETURN_IF_ERROR(PrepareImage(info.image_height, info.image_width, options, image));
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

}  // namespace albef::image_codecs
