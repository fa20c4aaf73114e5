// Softmax over the rows of a small matrix (R,S) in the cache, one row after the other in memory. In
// fp32 the same bits whatever the instruction set. Never parallel.
#ifndef ALBEF_MODEL_SOFTMAX_ROWS_H_
#define ALBEF_MODEL_SOFTMAX_ROWS_H_

#include <cstdint>

namespace albef {

// Scores become probabilities; mask_S is added to each row first, unless it is null. log_sums_R
// receives the logarithm of each row's sum of exponentials. A probability below e⁻⁸⁷ of the
// largest is zero; NaN makes its whole row NaN.
void SoftmaxRows(float* scores_RS, const float* mask_S, float* log_sums_R, int64_t rows,
                 int64_t size);
void SoftmaxRows(double* scores_RS, const double* mask_S, double* log_sums_R, int64_t rows,
                 int64_t size);

// The same probabilities from scores and those logarithms, but for rounding.
void SoftmaxRowsAgain(float* scores_RS, const float* mask_S, const float* log_sums_R, int64_t rows,
                      int64_t size);
void SoftmaxRowsAgain(double* scores_RS, const double* mask_S, const double* log_sums_R,
                      int64_t rows, int64_t size);

// Gradients of probabilities become those of scores.
void SoftmaxRowsBackward(const float* probs_RS, float* gradient_RS, int64_t rows, int64_t size);
void SoftmaxRowsBackward(const double* probs_RS, double* gradient_RS, int64_t rows, int64_t size);

}  // namespace albef

#endif  // ALBEF_MODEL_SOFTMAX_ROWS_H_
