#include "dataloader/image_decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

std::span<const uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string OwnFile(const std::string& name) {
  return *ReadFile("tests/golden/image-own/encoded/" + name);
}

absl::Status Decode(std::string_view content, const DecodeOptions& options = {}) {
  Image image;
  return DecodeImage(AsBytes(content), options, image);
}

void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

// `content` with other bytes at `offset`.
std::string Patched(std::string content, size_t offset, std::string_view bytes) {
  return content.replace(offset, bytes.size(), bytes);
}

// Where a JPEG's frame header says its height.
size_t JpegHeightOffset(const std::string& content) {
  for (size_t i = 0; i + 9 < content.size(); ++i) {
    if (content[i] == '\xFF' && (content[i + 1] == '\xC0' || content[i + 1] == '\xC2')) {
      return i + 5;
    }
  }
  return 0;
}

TEST(DecodeImage, SaysWhatAFileThatIsNoPictureBeginsWith) {
  ExpectError(Decode(""), absl::StatusCode::kInvalidArgument, "the file is empty");
  ExpectError(Decode("hello"), absl::StatusCode::kInvalidArgument,
              "not a JPEG, PNG, WebP, BMP or GIF picture: it begins with 68 65 6c 6c 6f");
  ExpectError(Decode(std::string(100, '\0')), absl::StatusCode::kInvalidArgument,
              "begins with 00 00");
}

TEST(DecodeImage, RefusesAbsurdDimensionsBeforeTakingMemory) {
  const std::string jpeg = OwnFile("420.jpg");
  ExpectError(Decode(Patched(jpeg, JpegHeightOffset(jpeg), "\xEA\x60\xEA\x60")),
              absl::StatusCode::kInvalidArgument, "60000 x 60000 pixels are more than");
  const std::string bmp = OwnFile("rgb.bmp");
  ExpectError(Decode(Patched(bmp, 18, std::string_view("\xFF\xFF\xFF\x7F\xFF\xFF\xFF\x7F", 8))),
              absl::StatusCode::kInvalidArgument, "2147483647 x 2147483647 pixels");
  ExpectError(Decode(Patched(bmp, 18, std::string_view("\x01\0\0\0\0\0\x01\0", 8))),
              absl::StatusCode::kInvalidArgument, "1 x 65536 pixels: more than the 65535 allowed");
  // A GIF's screen has 16 bits a side.
  const std::string gif = OwnFile("palette.gif");
  ExpectError(Decode(Patched(gif, 6, "\xFF\xFF\xFF\xFF")), absl::StatusCode::kInvalidArgument,
              "65535 x 65535 pixels");
}

TEST(DecodeImage, KeepsToTheCallersLimitInEveryFormat) {
  for (const char* name : {"420.jpg", "rgb.png", "lossy.webp", "rgb.bmp", "palette.gif"}) {
    // The fixtures are 25 x 18.
    EXPECT_TRUE(Decode(OwnFile(name), {.max_pixels = 450}).ok()) << name;
    ExpectError(Decode(OwnFile(name), {.max_pixels = 449}), absl::StatusCode::kInvalidArgument,
                "25 x 18 pixels are more than the 449 allowed");
  }
}

TEST(DecodeImage, RefusesAHeaderWithoutAHeight) {
  const std::string jpeg = OwnFile("420.jpg");
  const absl::Status status =
      Decode(Patched(jpeg, JpegHeightOffset(jpeg), std::string_view("\0\0", 2)));
  EXPECT_FALSE(status.ok());
  ExpectError(Decode(Patched(OwnFile("rgb.bmp"), 22, std::string_view("\0\0\0\0", 4))),
              absl::StatusCode::kInvalidArgument, "25 x 0 pixels");
}

TEST(DecodeImage, RefusesAFileCutOffBeforeItsPixels) {
  const auto first = [](const char* name, size_t size) { return OwnFile(name).substr(0, size); };
  ExpectError(Decode(first("420.jpg", 100)), absl::StatusCode::kDataLoss, "damaged JPEG");
  ExpectError(Decode(first("rgb.png", 30)), absl::StatusCode::kDataLoss,
              "damaged PNG: it ends before the first pixel");
  ExpectError(Decode(first("rgb.png", 8)), absl::StatusCode::kDataLoss, "damaged PNG");
  ExpectError(Decode(first("lossy.webp", 14)), absl::StatusCode::kDataLoss, "damaged WebP");
  ExpectError(Decode(first("lossy.webp", 100)), absl::StatusCode::kDataLoss,
              "damaged WebP: it ends early");
  ExpectError(Decode(first("rgb.bmp", 20)), absl::StatusCode::kDataLoss, "damaged BMP");
  ExpectError(Decode(first("palette.gif", 20)), absl::StatusCode::kDataLoss, "damaged GIF");
}

TEST(DecodeImage, RefusesDamageWithinAPng) {
  const std::string png = OwnFile("rgb.png");
  ExpectError(Decode(Patched(png, 17, "\x01")), absl::StatusCode::kDataLoss,
              "wrong checksum of chunk IHDR at byte 8");
  const size_t pixels = png.find("IDAT");
  ExpectError(Decode(Patched(png, pixels + 4, "\xFF\xFF\xFF")), absl::StatusCode::kDataLoss,
              "damaged PNG");
}

TEST(DecodeImage, NamesWhatItDoesNotSupport) {
  // 16 bits per pixel.
  ExpectError(Decode(Patched(OwnFile("rgb.bmp"), 28, "\x10")), absl::StatusCode::kInvalidArgument,
              "unsupported BMP: 16 bits per pixel; convert it to JPEG or PNG");
  ExpectError(Decode(Patched(OwnFile("gray.bmp"), 30, "\x01")), absl::StatusCode::kInvalidArgument,
              "unsupported BMP: compression 1 with 8 bits");
}

TEST(DecodeImage, RefusesAProgressiveFileWithEndlessScans) {
  // The scans after the frame header once more, a thousand times.
  const std::string jpeg = OwnFile("progressive.jpg");
  const size_t last_scan = jpeg.rfind("\xFF\xDA");
  ASSERT_NE(last_scan, std::string::npos);
  std::string hostile = jpeg.substr(0, jpeg.size() - 2);
  for (int i = 0; i < 1000; ++i) hostile += jpeg.substr(last_scan, jpeg.size() - 2 - last_scan);
  ExpectError(Decode(hostile + "\xFF\xD9"), absl::StatusCode::kInvalidArgument,
              "unsupported JPEG: more than 500 scans");
}

TEST(DecodeImage, ReusesTheImageForPicturesOfOtherSizes) {
  Image image;
  Image fresh;
  for (const char* name : {"truncated.png", "one.webp", "truncated.bmp", "truncated.jpg"}) {
    ASSERT_TRUE(DecodeImage(AsBytes(OwnFile(name)), {}, image).ok());
    fresh = Image();
    ASSERT_TRUE(DecodeImage(AsBytes(OwnFile(name)), {}, fresh).ok());
    EXPECT_EQ(image.rgb_HWC, fresh.rgb_HWC) << name;
    EXPECT_EQ(image.rgb_HWC.size(), static_cast<size_t>(image.height * image.width * 3));
  }
}

}  // namespace
}  // namespace albef
