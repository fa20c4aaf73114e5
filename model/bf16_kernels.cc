#include "model/bf16_kernels.h"

#include <ATen/Parallel.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdint>

#include "common/simd.h"
#include "model/simd_math.h"

namespace albef {
namespace {

// Columns whose sums stay in the first-level cache.
constexpr int64_t kColumns = 256;

ALBEF_WIDE_SIMD_CLONES void AddRows(const uint16_t* x, int64_t rows, int64_t stride, float* sums,
                                    int64_t columns) {
  std::fill_n(sums, columns, 0.0F);
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t* values = x + row * stride;
    for (int64_t i = 0; i < columns; ++i) sums[i] += FromBf16(values[i]);
  }
}

}  // namespace

ALBEF_WIDE_SIMD_CLONES void LoadRow(const uint16_t* from, float* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = FromBf16(from[i]);
}

ALBEF_WIDE_SIMD_CLONES void StoreRow(const float* from, uint16_t* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = ToBf16(from[i]);
}

torch::Tensor ColumnSums(const torch::Tensor& x_MN) {
  const torch::Tensor rows_MN = x_MN.contiguous();
  const int64_t rows = rows_MN.size(0);
  const int64_t width = rows_MN.size(1);
  torch::Tensor sums_N = at::empty({width}, rows_MN.options().dtype(at::kFloat));
  const auto* values = reinterpret_cast<const uint16_t*>(rows_MN.const_data_ptr<at::BFloat16>());
  auto* sums = sums_N.mutable_data_ptr<float>();
  at::parallel_for(0, at::divup(width, kColumns), 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = piece * kColumns;
      AddRows(values + begin, rows, width, sums + begin, std::min(kColumns, width - begin));
    }
  });
  return sums_N;
}

}  // namespace albef
