// A part of a JPEG is decoded to the pixels that it has in the whole.
#include <cstddef>
#include <cstdio>  // jpeglib.h needs it before
//
#include <jpeglib.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "common/random.h"
#include "dataloader/image_decode.h"

namespace albef {
namespace {

struct Encoding {
  int horizontal = 1;  // samples of brightness for each of colour
  int vertical = 1;
  bool gray = false;
  bool progressive = false;
  bool arithmetic = false;
  bool one_scan_per_channel = false;
  unsigned restart_interval = 0;
};

// A picture with edges and gradients everywhere.
std::string Encode(int height, int width, const Encoding& encoding, RandomStream& random) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_height = static_cast<JDIMENSION>(height);
  info.image_width = static_cast<JDIMENSION>(width);
  info.input_components = encoding.gray ? 1 : 3;
  info.in_color_space = encoding.gray ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, static_cast<int>(30 + random.Below(70)), TRUE);
  info.comp_info[0].h_samp_factor = encoding.horizontal;
  info.comp_info[0].v_samp_factor = encoding.vertical;
  info.arith_code = encoding.arithmetic ? TRUE : FALSE;
  info.restart_interval = encoding.restart_interval;
  if (encoding.progressive) jpeg_simple_progression(&info);
  jpeg_scan_info scans[3] = {};
  if (encoding.one_scan_per_channel) {
    for (int i = 0; i < 3; ++i) {
      scans[i].comps_in_scan = 1;
      scans[i].component_index[0] = i;
      scans[i].Se = 63;
    }
    info.scan_info = scans;
    info.num_scans = 3;
  }
  jpeg_start_compress(&info, TRUE);
  std::vector<uint8_t> row(static_cast<size_t>(width * info.input_components));
  for (int y = 0; y < height; ++y) {
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = static_cast<uint8_t>(random.Bernoulli(0.3) ? random.Below(256)
                                                          : i * 5 + static_cast<size_t>(y) * 3);
    }
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&info, &pointer, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string content(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return content;
}

std::span<const uint8_t> AsBytes(const std::string& content) {
  return {reinterpret_cast<const uint8_t*>(content.data()), content.size()};
}

Box RandomBox(int height, int width, RandomStream& random) {
  Box box;
  box.height = static_cast<int>(1 + random.Below(static_cast<uint64_t>(height)));
  box.width = static_cast<int>(1 + random.Below(static_cast<uint64_t>(width)));
  box.top = static_cast<int>(random.Below(static_cast<uint64_t>(height - box.height + 1)));
  box.left = static_cast<int>(random.Below(static_cast<uint64_t>(width - box.width + 1)));
  return box;
}

// Whether any part was smaller than the picture.
bool ExpectPartsOfTheWhole(const std::string& content, int num_boxes, RandomStream& random) {
  Image whole, image;
  const absl::Status expected = DecodeImage(AsBytes(content), {}, whole);
  bool was_part = false;
  for (int i = 0; i < num_boxes; ++i) {
    Box box, part;
    const absl::Status status = DecodeImagePart(
        AsBytes(content), {},
        [&](int height, int width) { return box = RandomBox(height, width, random); }, image, part);
    EXPECT_EQ(status, expected);
    if (!status.ok() || !expected.ok()) continue;
    EXPECT_EQ(part.height, box.height);
    EXPECT_EQ(part.width, box.width);
    was_part = was_part || image.height < whole.height || image.width < whole.width;
    for (int y = 0; y < box.height; ++y) {
      const uint8_t* pixels = whole.view().row(box.top + y) + 3 * box.left;
      const bool same = std::equal(pixels, pixels + 3 * box.width,
                                   image.view().row(part.top + y) + 3 * part.left);
      EXPECT_TRUE(same) << "row " << y << " of " << box.height << " x " << box.width << " at "
                        << box.top << ", " << box.left << " of " << whole.height << " x "
                        << whole.width;
      if (!same) return was_part;
    }
  }
  return was_part;
}

const std::vector<Encoding> kEncodings = {
    {},
    {.horizontal = 2},
    {.horizontal = 2, .vertical = 2},
    {.vertical = 2},
    {.horizontal = 4},
    {.horizontal = 4, .vertical = 2},
    {.gray = true},
    {.horizontal = 2, .vertical = 2, .progressive = true},
    {.horizontal = 2, .progressive = true},
    {.horizontal = 2, .vertical = 2, .arithmetic = true},
    {.horizontal = 2, .vertical = 2, .progressive = true, .arithmetic = true},
    {.horizontal = 2, .vertical = 2, .one_scan_per_channel = true},
    {.horizontal = 2, .vertical = 2, .restart_interval = 3},
    {.horizontal = 2, .restart_interval = 1},
    {.restart_interval = 7},
};

TEST(ImageParts, HaveThePixelsOfTheWholeAtEverySize) {
  for (size_t e = 0; e < kEncodings.size(); ++e) {
    bool was_part = false;
    for (uint64_t i = 0; i < 150; ++i) {
      RandomStream random(e, RandomPurpose::kSynthetic, i);
      const int height = static_cast<int>(1 + random.Below(i % 10 == 0 ? 400 : 90));
      const int width = static_cast<int>(1 + random.Below(i % 10 == 0 ? 400 : 90));
      const std::string content = Encode(height, width, kEncodings[e], random);
      was_part = ExpectPartsOfTheWhole(content, 12, random) || was_part;
      ASSERT_FALSE(HasFailure()) << "encoding " << e << ", picture " << i;
    }
    const Encoding& encoding = kEncodings[e];
    const bool is_proved = !encoding.progressive && !encoding.arithmetic &&
                           !encoding.one_scan_per_channel && encoding.horizontal <= 2 &&
                           encoding.horizontal >= encoding.vertical;
    EXPECT_EQ(was_part, is_proved) << "encoding " << e;
  }
}

TEST(ImageParts, HaveThePixelsOfTheWholeHoweverItIsDamaged) {
  for (size_t e = 0; e < kEncodings.size(); ++e) {
    for (uint64_t i = 0; i < 150; ++i) {
      RandomStream random(100 + e, RandomPurpose::kSynthetic, i);
      std::string content = Encode(static_cast<int>(20 + random.Below(150)),
                                   static_cast<int>(20 + random.Below(150)), kEncodings[e], random);
      if (i % 2 == 0) content.resize(random.Below(content.size()));
      for (uint64_t n = random.Below(6); n > 0 && !content.empty(); --n) {
        content[random.Below(content.size())] = static_cast<char>(random.Below(256));
      }
      ExpectPartsOfTheWhole(content, 4, random);
      ASSERT_FALSE(HasFailure()) << "encoding " << e << ", picture " << i;
    }
  }
}

}  // namespace
}  // namespace albef
