// The inner loops of bicubic resampling: weighted sums of bytes with weights in 22 bits.
//
// Each has two implementations with the same bits, for any processor and for AVX2. The sums are
// those of 32-bit integers, modulo 2^32: the AVX2 kernels split a weight into high · 2^15 + low to
// multiply in 16 bits, and that is the same sum.
#ifndef ALBEF_DATALOADER_RESIZE_ROWS_H_
#define ALBEF_DATALOADER_RESIZE_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/simd.h"

namespace albef::resize_rows {

// Which source positions the output positions of one axis read, with what weights.
struct Weights {
  static constexpr int kPrecisionBits = 22;
  // Taps come in groups; the last group is filled up with zeros.
  static constexpr size_t kGroup = 4;

  struct Taps {
    int first;
    int count;
    size_t index;  // of its first weight, a multiple of kGroup
  };

  std::vector<Taps> taps;
  std::vector<int32_t> values;
  // The same, split: value = high << 15 | low.
  std::vector<int16_t> low;
  std::vector<int16_t> high;
};

// For an axis of `input_size` pixels that becomes one of `output_size`. Memory is reused.
void ComputeWeights(int input_size, int output_size, Weights& weights);

// Rows one after the other in memory, at a distance of `stride` bytes.
template <typename Byte>
struct Rows {
  Byte* first;
  size_t stride;
  size_t count;

  Byte* row(size_t y) const { return first + y * stride; }
};

// What ResizeRows may read behind each row of the source.
inline constexpr size_t kRowPaddingBytes = 32;

// Resizes rows of RGB pixels to `weights.taps.size()` pixels each, from left to right or, mirrored,
// from right to left. As many rows of output as of source.
void ResizeRows(const Rows<const uint8_t>& source, const Weights& weights, bool mirror,
                const Rows<uint8_t>& output);

// One output row of `row_bytes` bytes, from the rows that `taps` names: `source` is the first of
// them, each is `row_bytes` long.
void BlendRows(const uint8_t* source, size_t row_bytes, const Weights& weights,
               const Weights::Taps& taps, uint8_t* output);

// The implementations for any processor, for the tests.
void ResizeRowsPortably(const Rows<const uint8_t>& source, const Weights& weights, bool mirror,
                        const Rows<uint8_t>& output);
void BlendRowsPortably(const uint8_t* source, size_t row_bytes, const Weights& weights,
                       const Weights::Taps& taps, uint8_t* output);

}  // namespace albef::resize_rows

#endif  // ALBEF_DATALOADER_RESIZE_ROWS_H_
