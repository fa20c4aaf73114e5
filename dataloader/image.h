// Pictures in memory: 8-bit RGB, rows from the top, pixels interleaved, no padding.
#ifndef ALBEF_DATALOADER_IMAGE_H_
#define ALBEF_DATALOADER_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace albef {

// Where the authors' code has a defect that changes pixels (spec §8.A, D1 and D2; 16-bit gray), the
// choice between doing what was meant and doing what they did.
enum class ImageCompat { kCorrected, kOfficial };

// Part of an image, in pixels.
struct Box {
  int top = 0;
  int left = 0;
  int height = 0;
  int width = 0;

  bool operator==(const Box&) const = default;
};

// A picture whose pixels somebody else owns: rgb_HWC.size() == height * width * 3.
template <typename Byte>
struct BasicImageView {
  int height = 0;
  int width = 0;
  std::span<Byte> rgb_HWC;

  size_t row_bytes() const { return static_cast<size_t>(width) * 3; }
  Byte* row(int y) const { return rgb_HWC.data() + static_cast<size_t>(y) * row_bytes(); }
};

using ImageView = BasicImageView<const uint8_t>;
using MutableImageView = BasicImageView<uint8_t>;

// A picture that owns its pixels. Resize keeps the memory it has, so that one Image per thread
// serves any number of samples.
struct Image {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> rgb_HWC;

  // Both dimensions become those given; the pixels are unspecified.
  void Resize(int new_height, int new_width) {
    height = new_height;
    width = new_width;
    rgb_HWC.resize(static_cast<size_t>(height) * static_cast<size_t>(width) * 3);
  }

  ImageView view() const { return {height, width, rgb_HWC}; }
  MutableImageView mutable_view() { return {height, width, rgb_HWC}; }
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_IMAGE_H_
