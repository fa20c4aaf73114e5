#include "dataloader/warp.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "common/simd.h"
#include "dataloader/pixel4.h"

namespace albef {
namespace {

constexpr uint8_t kFill = 128;

// In each direction the inverse differs from one row to the next by a constant only, and from one
// column to the next as well: OpenCV rounds both parts for themselves and adds.
Affine Inverse(const Affine& m) {
  const double determinant = m.a11 * m.a22 - m.a12 * m.a21;
  const double d = determinant != 0.0 ? 1.0 / determinant : 0.0;
  Affine inverse;
  inverse.a11 = m.a22 * d;
  inverse.a22 = m.a11 * d;
  inverse.a12 = m.a12 * -d;
  inverse.a21 = m.a21 * -d;
  inverse.b1 = -inverse.a11 * m.b1 - inverse.a12 * m.b2;
  inverse.b2 = -inverse.a21 * m.b1 - inverse.a22 * m.b2;
  return inverse;
}

// Where output pixels come from: positions are in 1/1024 pixel, rounded half to even.
constexpr double kPositionScale = 1024.0;
int ToPosition(double value) { return static_cast<int>(std::nearbyint(value * kPositionScale)); }

// 1/1024 → 1/32 pixel, rounded: whole pixels above, weights of 32nds in the low five bits.
inline int ToWeight(int position) { return (position + 16) >> 5; }

// A picture inside a frame of fill values, so that no neighbour needs a test.
struct Framed {
  // Two on each side: positions beyond are moved to the outermost, where all four neighbours are
  // fill.
  static constexpr int kMargin = 2;
  // What may be read behind the frame's last pixel.
  static constexpr size_t kPaddingBytes = 8;

  const uint8_t* pixels;  // of the frame's corner
  size_t row_bytes;

  const uint8_t* At(int column, int row) const {
    return pixels + static_cast<size_t>(row + kMargin) * row_bytes +
           static_cast<size_t>(column + kMargin) * 3;
  }
};

// ---- Rows that are moved as a whole -----------------------------------------------------------

// Output bytes from `upper` and the row below it: the same weights for each.
ALBEF_SIMD_CLONES void BlendRow(const uint8_t* upper, const uint8_t* lower, int fx, int fy,
                                size_t count, uint8_t* output) {
  const auto left = static_cast<uint16_t>(32 - fx), right = static_cast<uint16_t>(fx);
  const auto up = static_cast<uint32_t>(32 - fy), down = static_cast<uint32_t>(fy);
  if (fy == 0) {
    for (size_t i = 0; i < count; ++i) {
      const auto sum = static_cast<uint16_t>(upper[i] * left + upper[i + 3] * right);
      output[i] = static_cast<uint8_t>((sum + 16) >> 5);
    }
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const auto above = static_cast<uint32_t>(upper[i] * left + upper[i + 3] * right);
    const auto below = static_cast<uint32_t>(lower[i] * left + lower[i + 3] * right);
    output[i] = static_cast<uint8_t>((above * up + below * down + 512) >> 10);
  }
}

// A row all of which is moved by (x_offset, y_offset), in 1/32 pixel.
void ShiftRow(const Framed& source, int height, int width, int x_offset, int y_offset, int y,
              uint8_t* output) {
  const int columns = x_offset >> 5;
  const int row = y + (y_offset >> 5);
  // Pixels outside see nothing but fill.
  const int begin = std::clamp(-Framed::kMargin - columns, 0, width);
  const int end = std::clamp(width - columns, begin, width);
  if (row < -1 || row >= height || begin == end) {
    std::memset(output, kFill, static_cast<size_t>(width) * 3);
    return;
  }
  std::memset(output, kFill, static_cast<size_t>(begin) * 3);
  std::memset(output + 3 * end, kFill, static_cast<size_t>(width - end) * 3);
  const uint8_t* upper = source.At(begin + columns, row);
  const size_t count = static_cast<size_t>(end - begin) * 3;
  if ((x_offset & 31) == 0 && (y_offset & 31) == 0) {
    std::memcpy(output + 3 * begin, upper, count);
  } else {
    BlendRow(upper, upper + source.row_bytes, x_offset & 31, y_offset & 31, count,
             output + 3 * begin);
  }
}

// ---- Rows in general --------------------------------------------------------------------------

// The upper left of the four neighbours of each pixel, as an offset in the frame, and the weights
// of the others: fx + 32 fy.
ALBEF_SIMD_CLONES void Locate(int row_bytes, int height, int width, const int* x_positions,
                              int x_start, const int* y_positions, int y_start, int* offsets,
                              int* weights) {
  for (int x = 0; x < width; ++x) {
    const int x_position = ToWeight(x_positions[x] + x_start);
    const int y_position = ToWeight(y_positions[x] + y_start);
    const int column = std::clamp(x_position >> 5, -Framed::kMargin, width) + Framed::kMargin;
    const int row = std::clamp(y_position >> 5, -Framed::kMargin, height) + Framed::kMargin;
    offsets[x] = row * row_bytes + column * 3;
    weights[x] = (x_position & 31) | (y_position & 31) << 5;
  }
}

// Each writes one byte past the end of `output`.
using GatherRow = void (*)(const Framed& source, int width, const int* offsets, const int* weights,
                           uint8_t* output);

void GatherRowPortably(const Framed& source, int width, const int* offsets, const int* weights,
                       uint8_t* output) {
  for (int x = 0; x < width; ++x) {
    const int fx = weights[x] & 31;
    const int fy = weights[x] >> 5;
    const uint8_t* upper = source.pixels + offsets[x];
    const uint8_t* lower = upper + source.row_bytes;
    const Pixel4 sum = LoadPixel(upper) * ((32 - fx) * (32 - fy)) +
                       LoadPixel(upper + 3) * (fx * (32 - fy)) +
                       LoadPixel(lower) * ((32 - fx) * fy) + LoadPixel(lower + 3) * (fx * fy);
    StorePixel((sum + 512) >> 10, output + 3 * x);
  }
}

#ifdef ALBEF_HAS_AVX2_KERNELS
// The same sums: left and right first (they fit in 16 bits), then above and below.
__attribute__((target("avx2"))) void GatherRowAvx2(const Framed& source, int width,
                                                   const int* offsets, const int* weights,
                                                   uint8_t* output) {
  // Left and right neighbours of each channel side by side, above in the low half, below in the
  // high one.
  const __m128i pairs = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 8, 11, 9, 12, 10, 13, -1, -1);
  const __m128i half = _mm_set1_epi32(512);
  for (int x = 0; x < width; ++x) {
    const uint8_t* upper = source.pixels + offsets[x];
    const __m128i above = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(upper));
    const __m128i below =
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(upper + source.row_bytes));
    const int fx = weights[x] & 31;
    const int fy = weights[x] >> 5;
    const __m128i across = _mm_set1_epi16(static_cast<int16_t>(fx << 8 | (32 - fx)));
    const __m128i down = _mm_set1_epi32(fy << 16 | (32 - fy));
    const __m128i blended =
        _mm_maddubs_epi16(_mm_shuffle_epi8(_mm_unpacklo_epi64(above, below), pairs), across);
    const __m128i columns = _mm_unpacklo_epi16(blended, _mm_unpackhi_epi64(blended, blended));
    const __m128i sum = _mm_add_epi32(_mm_madd_epi16(columns, down), half);
    const __m128i words = _mm_packs_epi32(_mm_srli_epi32(sum, 10), _mm_setzero_si128());
    const int pixel = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    std::memcpy(output + 3 * x, &pixel, sizeof(pixel));
  }
}
#endif

GatherRow BestGatherRow() {
#ifdef ALBEF_HAS_AVX2_KERNELS
  if (CpuHasAvx2()) return GatherRowAvx2;
#endif
  return GatherRowPortably;
}

}  // namespace

void Warp(const Affine& forward, MutableImageView image, std::vector<uint8_t>& scratch) {
  static const GatherRow gather_row = BestGatherRow();
  const int height = image.height;
  const int width = image.width;
  const size_t margin_bytes = Framed::kMargin * 3;
  const size_t framed_bytes = image.row_bytes() + 2 * margin_bytes;
  const size_t num_framed = static_cast<size_t>(height) + 2 * Framed::kMargin;
  // The frame, one output row, and padding for each.
  scratch.resize(num_framed * framed_bytes + Framed::kPaddingBytes + image.row_bytes() + 1);
  uint8_t* frame = scratch.data();
  std::memset(frame, kFill, Framed::kMargin * framed_bytes);
  for (int y = 0; y < height; ++y) {
    uint8_t* row = frame + (static_cast<size_t>(y) + Framed::kMargin) * framed_bytes;
    std::memset(row, kFill, margin_bytes);
    std::memcpy(row + margin_bytes, image.row(y), image.row_bytes());
    std::memset(row + margin_bytes + image.row_bytes(), kFill, margin_bytes);
  }
  std::memset(frame + (num_framed - Framed::kMargin) * framed_bytes, kFill,
              Framed::kMargin * framed_bytes + Framed::kPaddingBytes);
  const Framed source{frame, framed_bytes};

  const Affine backward = Inverse(forward);
  if (backward.a11 == 1.0 && backward.a21 == 0.0 && backward.a22 == 1.0) {
    for (int y = 0; y < height; ++y) {
      // What y adds to itself is a whole number of 1/32 pixels, which rounding leaves alone.
      const int x_offset = ToWeight(ToPosition(backward.a12 * y + backward.b1));
      const int y_offset = ToWeight(ToPosition(backward.a22 * y + backward.b2)) - 32 * y;
      ShiftRow(source, height, width, x_offset, y_offset, y, image.row(y));
    }
    return;
  }
  thread_local std::vector<int> table;
  table.resize(4 * static_cast<size_t>(width));
  int* x_positions = table.data();
  int* y_positions = x_positions + width;
  int* offsets = y_positions + width;
  int* weights = offsets + width;
  for (int x = 0; x < width; ++x) {
    x_positions[x] = ToPosition(backward.a11 * x);
    y_positions[x] = ToPosition(backward.a21 * x);
  }
  uint8_t* output = frame + num_framed * framed_bytes + Framed::kPaddingBytes;
  for (int y = 0; y < height; ++y) {
    Locate(static_cast<int>(framed_bytes), height, width, x_positions,
           ToPosition(backward.a12 * y + backward.b1), y_positions,
           ToPosition(backward.a22 * y + backward.b2), offsets, weights);
    gather_row(source, width, offsets, weights, output);
    std::memcpy(image.row(y), output, image.row_bytes());
  }
}

}  // namespace albef
