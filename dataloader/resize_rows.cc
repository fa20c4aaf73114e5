#include "dataloader/resize_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dataloader/pixel4.h"

namespace albef::resize_rows {
namespace {

constexpr int32_t kHalf = 1 << (Weights::kPrecisionBits - 1);
constexpr size_t kBlock = 32;
constexpr int kLowBits = 15;

// Cubic convolution kernel with a = -1/2.
double CubicKernel(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kA;
  return 0.0;
}

// `count` values of one output row, from as many rows of the source as there are taps.
inline __attribute__((always_inline)) void BlendValues(const uint8_t* source, size_t row_bytes,
                                                       const int32_t* weight, int num_taps,
                                                       size_t count, uint8_t* output) {
  int32_t sums[kBlock];
  for (size_t i = 0; i < count; ++i) sums[i] = kHalf;
  for (int k = 0; k < num_taps; ++k, source += row_bytes) {
    for (size_t i = 0; i < count; ++i) sums[i] += source[i] * weight[k];
  }
  for (size_t i = 0; i < count; ++i) {
    output[i] = static_cast<uint8_t>(std::clamp(sums[i] >> Weights::kPrecisionBits, 0, 255));
  }
}

#ifdef ALBEF_HAS_AVX2_KERNELS

#define ALBEF_AVX2 __attribute__((target("avx2")))

// Two taps' weights in each half of the register.
ALBEF_AVX2 inline __m256i FourWeights(const int16_t* weights) {
  const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights));
  return _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(pairs),
                                     _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

// The same two everywhere.
ALBEF_AVX2 inline __m256i TwoWeights(const int16_t* weights) {
  int pair;
  std::memcpy(&pair, weights, sizeof(pair));
  return _mm256_set1_epi32(pair);
}

inline void StorePixel3(uint32_t pixel, bool is_last, uint8_t* output) {
  // Behind the last pixel of a row lies another.
  if (is_last) {
    std::memcpy(output, &pixel, 3);
  } else {
    std::memcpy(output, &pixel, 4);
  }
}

// Four taps at a time, for several rows together: of the twelve bytes that they read in a row, each
// half of a register gets two pixels, channel by channel.
template <size_t kRows>
ALBEF_AVX2 void ResizeRowsAvx2(const Rows<const uint8_t>& source, size_t y, const Weights& weights,
                               bool mirror, const Rows<uint8_t>& output) {
  static_assert(kRows == 1 || kRows == 4);
  const __m256i channels =
      _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7,
                       -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m256i half = _mm256_set1_epi32(kHalf);
  const __m256i zero = _mm256_setzero_si256();
  // All in variables: for the compiler, the bytes that are written might be part of any object.
  const size_t width = weights.taps.size();
  const size_t stride = source.stride;
  const uint8_t* const input = source.row(y);
  const int16_t* const all_low = weights.low.data();
  const int16_t* const all_high = weights.high.data();
  const Weights::Taps* next = mirror ? &weights.taps.back() : weights.taps.data();
  const std::ptrdiff_t step = mirror ? -1 : 1;
  uint8_t* outputs[kRows];
  for (size_t r = 0; r < kRows; ++r) outputs[r] = output.row(y + r);
  for (size_t x = 0; x < width; ++x, next += step) {
    const Weights::Taps taps = *next;
    const uint8_t* pixels = input + static_cast<size_t>(taps.first) * 3;
    const int16_t* low = all_low + taps.index;
    const int16_t* high = all_high + taps.index;
    __m256i low_sums[kRows], high_sums[kRows];
    for (size_t r = 0; r < kRows; ++r) low_sums[r] = high_sums[r] = zero;
    for (int k = 0; k < taps.count; k += 4, pixels += 12, low += 4, high += 4) {
      const __m256i low_weights = FourWeights(low);
      const __m256i high_weights = FourWeights(high);
      for (size_t r = 0; r < kRows; ++r) {
        const __m128i bytes =
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + r * stride));
        const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), channels);
        low_sums[r] = _mm256_add_epi32(low_sums[r], _mm256_madd_epi16(values, low_weights));
        high_sums[r] = _mm256_add_epi32(high_sums[r], _mm256_madd_epi16(values, high_weights));
      }
    }
    __m256i sums[4] = {zero, zero, zero, zero};
    for (size_t r = 0; r < kRows; ++r) {
      sums[r] = _mm256_add_epi32(low_sums[r], _mm256_slli_epi32(high_sums[r], kLowBits));
    }
    // The two halves of each row are added, of two rows at a time.
    __m256i rows[2];
    for (size_t i = 0; i < 2; ++i) {
      const __m256i both =
          _mm256_add_epi32(_mm256_permute2x128_si256(sums[2 * i], sums[2 * i + 1], 0x20),
                           _mm256_permute2x128_si256(sums[2 * i], sums[2 * i + 1], 0x31));
      rows[i] = _mm256_srai_epi32(_mm256_add_epi32(both, half), Weights::kPrecisionBits);
    }
    const __m256i words = _mm256_packs_epi32(rows[0], rows[1]);
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const bool is_last = x + 1 == width;
    const auto even = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm256_castsi256_si128(bytes)));
    StorePixel3(static_cast<uint32_t>(even), is_last, outputs[0] + 3 * x);
    if constexpr (kRows == 4) {
      const auto odd = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm256_extracti128_si256(bytes, 1)));
      StorePixel3(static_cast<uint32_t>(odd), is_last, outputs[1] + 3 * x);
      StorePixel3(static_cast<uint32_t>(even >> 32), is_last, outputs[2] + 3 * x);
      StorePixel3(static_cast<uint32_t>(odd >> 32), is_last, outputs[3] + 3 * x);
    }
  }
}

// Two taps at a time on blocks of 32 bytes. Unpacking interleaves the two rows and widens, packing
// at the end puts the bytes back into their order.
ALBEF_AVX2 void BlendRowsAvx2(const uint8_t* source, size_t row_bytes, const Weights& weights,
                              const Weights::Taps& taps, uint8_t* output) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i half = _mm256_set1_epi32(kHalf);
  size_t i = 0;
  for (; i + kBlock <= row_bytes; i += kBlock) {
    __m256i low[4] = {zero, zero, zero, zero};
    __m256i high[4] = {zero, zero, zero, zero};
    const uint8_t* row = source + i;
    for (int k = 0; k < taps.count; k += 2, row += 2 * row_bytes) {
      // The weight of a row that is not there is zero.
      const uint8_t* next = k + 1 < taps.count ? row + row_bytes : row;
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next));
      const __m256i lower = _mm256_unpacklo_epi8(a, b);
      const __m256i upper = _mm256_unpackhi_epi8(a, b);
      const __m256i values[4] = {
          _mm256_unpacklo_epi8(lower, zero), _mm256_unpackhi_epi8(lower, zero),
          _mm256_unpacklo_epi8(upper, zero), _mm256_unpackhi_epi8(upper, zero)};
      const size_t first = taps.index + static_cast<size_t>(k);
      const __m256i low_weights = TwoWeights(&weights.low[first]);
      const __m256i high_weights = TwoWeights(&weights.high[first]);
      for (int j = 0; j < 4; ++j) {
        low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(values[j], low_weights));
        high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(values[j], high_weights));
      }
    }
    __m256i sums[4];
    for (int j = 0; j < 4; ++j) {
      const __m256i sum = _mm256_add_epi32(low[j], _mm256_slli_epi32(high[j], kLowBits));
      sums[j] = _mm256_srai_epi32(_mm256_add_epi32(sum, half), Weights::kPrecisionBits);
    }
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]),
                                              _mm256_packs_epi32(sums[2], sums[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + i), bytes);
  }
  BlendValues(source + i, row_bytes, weights.values.data() + taps.index, taps.count, row_bytes - i,
              output + i);
}

#endif  // ALBEF_HAS_AVX2_KERNELS

bool UseAvx2() {
#ifdef ALBEF_HAS_AVX2_KERNELS
  static const bool has_avx2 = CpuHasAvx2();
  return has_avx2;
#else
  return false;
#endif
}

}  // namespace

// The order of the operations on doubles decides the last bit of the integers: do not rearrange.
void ComputeWeights(int input_size, int output_size, Weights& weights) {
  const double scale = static_cast<double>(input_size) / output_size;
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2.0 * filter_scale;
  const double inverse = 1.0 / filter_scale;
  weights.taps.clear();
  weights.values.clear();
  weights.low.clear();
  weights.high.clear();
  thread_local std::vector<double> exact;
  for (int o = 0; o < output_size; ++o) {
    const double centre = (o + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), input_size);
    exact.clear();
    double sum = 0.0;
    for (int i = first; i < last; ++i) {
      exact.push_back(CubicKernel((i - centre + 0.5) * inverse));
      sum += exact.back();
    }
    weights.taps.push_back({first, last - first, weights.values.size()});
    for (double weight : exact) {
      if (sum != 0.0) weight /= sum;
      const double scaled = weight * (1 << Weights::kPrecisionBits);
      weights.values.push_back(static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5));
    }
    while (weights.values.size() % Weights::kGroup != 0) weights.values.push_back(0);
  }
  for (const int32_t value : weights.values) {
    weights.low.push_back(static_cast<int16_t>(value & ((1 << kLowBits) - 1)));
    weights.high.push_back(static_cast<int16_t>(value >> kLowBits));
  }
}

ALBEF_SIMD_CLONES void ResizeRowsPortably(const Rows<const uint8_t>& source, const Weights& weights,
                                          bool mirror, const Rows<uint8_t>& output) {
  const size_t width = weights.taps.size();
  for (size_t y = 0; y < source.count; ++y) {
    for (size_t x = 0; x < width; ++x) {
      const Weights::Taps& taps = weights.taps[mirror ? width - 1 - x : x];
      const uint8_t* pixel = source.row(y) + static_cast<size_t>(taps.first) * 3;
      const int32_t* weight = weights.values.data() + taps.index;
      Pixel4 sum = {};
      for (int k = 0; k < taps.count; ++k) sum += LoadPixel(pixel + 3 * k) * weight[k];
      sum = (sum + kHalf) >> Weights::kPrecisionBits;
      sum = sum < 0 ? Pixel4{} : sum;
      sum = sum > 255 ? Pixel4{} + 255 : sum;
      uint8_t bytes[4];
      StorePixel(sum, bytes);
      std::memcpy(output.row(y) + 3 * x, bytes, 3);
    }
  }
}

ALBEF_SIMD_CLONES void BlendRowsPortably(const uint8_t* source, size_t row_bytes,
                                         const Weights& weights, const Weights::Taps& taps,
                                         uint8_t* output) {
  const int32_t* weight = weights.values.data() + taps.index;
  size_t i = 0;
  // Blocks of a fixed size stay in registers.
  for (; i + kBlock <= row_bytes; i += kBlock) {
    BlendValues(source + i, row_bytes, weight, taps.count, kBlock, output + i);
  }
  BlendValues(source + i, row_bytes, weight, taps.count, row_bytes - i, output + i);
}

void ResizeRows(const Rows<const uint8_t>& source, const Weights& weights, bool mirror,
                const Rows<uint8_t>& output) {
#ifdef ALBEF_HAS_AVX2_KERNELS
  if (UseAvx2()) {
    size_t y = 0;
    for (; y + 4 <= source.count; y += 4) ResizeRowsAvx2<4>(source, y, weights, mirror, output);
    for (; y < source.count; ++y) ResizeRowsAvx2<1>(source, y, weights, mirror, output);
    return;
  }
#endif
  ResizeRowsPortably(source, weights, mirror, output);
}

void BlendRows(const uint8_t* source, size_t row_bytes, const Weights& weights,
               const Weights::Taps& taps, uint8_t* output) {
#ifdef ALBEF_HAS_AVX2_KERNELS
  if (UseAvx2()) return BlendRowsAvx2(source, row_bytes, weights, taps, output);
#endif
  BlendRowsPortably(source, row_bytes, weights, taps, output);
}

}  // namespace albef::resize_rows
