#include "model/softmax_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/simd.h"
#include "model/simd_math.h"

namespace albef {
namespace {

// Partial sums of a row, added up in this order on every machine.
constexpr int64_t kLanes = 16;

template <typename T>
ALBEF_ALWAYS_INLINE inline T Fold(const T (&lanes)[kLanes]) {
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

// What is masked out gets a probability of exactly zero.
template <typename T>
ALBEF_ALWAYS_INLINE inline T ExpOrZero(T x) {
  const T exp = ExpOfNegative(x);
  return x < T(-87) ? T(0) : exp;
}

template <typename T>
ALBEF_ALWAYS_INLINE inline T RowMax(const T* x, int64_t size) {
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<T>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
  }
  T max = -std::numeric_limits<T>::infinity();
  for (; i < size; ++i) max = x[i] > max ? x[i] : max;
  for (const T lane : lanes) max = lane > max ? lane : max;
  return max;
}

template <typename T>
ALBEF_ALWAYS_INLINE inline T RowSum(const T* x, int64_t size) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
  }
  T sum = 0;
  for (; i < size; ++i) sum += x[i];
  return sum + Fold(lanes);
}

template <typename T>
ALBEF_ALWAYS_INLINE inline T RowDot(const T* x, const T* y, int64_t size) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * y[i + lane];
  }
  T sum = 0;
  for (; i < size; ++i) sum += x[i] * y[i];
  return sum + Fold(lanes);
}

// Scores become probabilities; `mask` is added first, unless it is null. Returns the logarithm of
// the sum of the scores' exponentials.
template <typename T>
ALBEF_ALWAYS_INLINE inline T SoftmaxRow(T* scores, const T* mask, int64_t size) {
  if (mask != nullptr) {
    for (int64_t i = 0; i < size; ++i) scores[i] += mask[i];
  }
  const T max = RowMax(scores, size);
  for (int64_t i = 0; i < size; ++i) scores[i] = ExpOrZero(scores[i] - max);
  const T sum = RowSum(scores, size);
  const T scale = T(1) / sum;
  for (int64_t i = 0; i < size; ++i) scores[i] *= scale;
  return max + std::log(sum);
}

// The same probabilities from scores and that logarithm, but for rounding.
template <typename T>
ALBEF_ALWAYS_INLINE inline void SoftmaxRowAgain(T* scores, const T* mask, T log_sum, int64_t size) {
  if (mask != nullptr) {
    for (int64_t i = 0; i < size; ++i) scores[i] += mask[i];
  }
  for (int64_t i = 0; i < size; ++i) {
    const T x = scores[i] - log_sum;
    scores[i] = ExpOrZero(x > T(0) ? T(0) : x);
  }
}

// Gradients of probabilities become those of scores.
template <typename T>
ALBEF_ALWAYS_INLINE inline void SoftmaxRowBackward(const T* probs, T* gradient, int64_t size) {
  const T mean = RowDot(probs, gradient, size);
  for (int64_t i = 0; i < size; ++i) gradient[i] = probs[i] * (gradient[i] - mean);
}

template <typename T>
ALBEF_ALWAYS_INLINE inline void Softmax(T* scores_RS, const T* mask_S, T* log_sums_R, int64_t rows,
                                        int64_t size) {
  for (int64_t row = 0; row < rows; ++row) {
    log_sums_R[row] = SoftmaxRow(scores_RS + row * size, mask_S, size);
  }
}

template <typename T>
ALBEF_ALWAYS_INLINE inline void SoftmaxAgain(T* scores_RS, const T* mask_S, const T* log_sums_R,
                                             int64_t rows, int64_t size) {
  for (int64_t row = 0; row < rows; ++row) {
    SoftmaxRowAgain(scores_RS + row * size, mask_S, log_sums_R[row], size);
  }
}

template <typename T>
ALBEF_ALWAYS_INLINE inline void SoftmaxBackward(const T* probs_RS, T* gradient_RS, int64_t rows,
                                                int64_t size) {
  for (int64_t row = 0; row < rows; ++row) {
    SoftmaxRowBackward(probs_RS + row * size, gradient_RS + row * size, size);
  }
}

}  // namespace

ALBEF_WIDE_SIMD_CLONES void SoftmaxRows(float* scores_RS, const float* mask_S, float* log_sums_R,
                                        int64_t rows, int64_t size) {
  Softmax(scores_RS, mask_S, log_sums_R, rows, size);
}
void SoftmaxRows(double* scores_RS, const double* mask_S, double* log_sums_R, int64_t rows,
                 int64_t size) {
  Softmax(scores_RS, mask_S, log_sums_R, rows, size);
}

ALBEF_WIDE_SIMD_CLONES void SoftmaxRowsAgain(float* scores_RS, const float* mask_S,
                                             const float* log_sums_R, int64_t rows, int64_t size) {
  SoftmaxAgain(scores_RS, mask_S, log_sums_R, rows, size);
}
void SoftmaxRowsAgain(double* scores_RS, const double* mask_S, const double* log_sums_R,
                      int64_t rows, int64_t size) {
  SoftmaxAgain(scores_RS, mask_S, log_sums_R, rows, size);
}

ALBEF_WIDE_SIMD_CLONES void SoftmaxRowsBackward(const float* probs_RS, float* gradient_RS,
                                                int64_t rows, int64_t size) {
  SoftmaxBackward(probs_RS, gradient_RS, rows, size);
}
void SoftmaxRowsBackward(const double* probs_RS, double* gradient_RS, int64_t rows, int64_t size) {
  SoftmaxBackward(probs_RS, gradient_RS, rows, size);
}

}  // namespace albef
