#include "model/blas.h"

// The Fortran interface, which every BLAS exports and LibTorch has no header for.
extern "C" {
void sgemm_(const char* left_transposed, const char* right_transposed, const int* m, const int* n,
            const int* k, const float* alpha, const float* left, const int* left_stride,
            const float* right, const int* right_stride, const float* beta, float* out,
            const int* out_stride);
void dgemm_(const char* left_transposed, const char* right_transposed, const int* m, const int* n,
            const int* k, const double* alpha, const double* left, const int* left_stride,
            const double* right, const int* right_stride, const double* beta, double* out,
            const int* out_stride);
// Of MKL; 0 means the number of threads set for all. Null with another BLAS.
__attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);
}

namespace albef {
namespace {

char Letter(Transposed transposed) { return transposed == Transposed::kYes ? 'T' : 'N'; }

// Fortran's matrices stand column by column, so the transposed product of the transposed factors is
// asked for: right · left.
template <typename T, typename Gemm>
void Multiply(Gemm gemm, int64_t m, int64_t n, int64_t k, T scale, MatrixView<const T> left,
              Transposed left_transposed, MatrixView<const T> right, Transposed right_transposed,
              MatrixView<T> out_MN) {
  const char first = Letter(right_transposed);
  const char second = Letter(left_transposed);
  const int rows = static_cast<int>(n);
  const int columns = static_cast<int>(m);
  const int depth = static_cast<int>(k);
  const int first_stride = static_cast<int>(right.stride);
  const int second_stride = static_cast<int>(left.stride);
  const int out_stride = static_cast<int>(out_MN.stride);
  const T zero = 0;
  gemm(&first, &second, &rows, &columns, &depth, &scale, right.data, &first_stride, left.data,
       &second_stride, &zero, out_MN.data, &out_stride);
}

}  // namespace

SerialBlas::SerialBlas() {
  if (MKL_Set_Num_Threads_Local != nullptr) previous_ = MKL_Set_Num_Threads_Local(1);
}

SerialBlas::~SerialBlas() {
  if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(previous_);
}

void MultiplySmall(int64_t m, int64_t n, int64_t k, float scale, MatrixView<const float> left,
                   Transposed left_transposed, MatrixView<const float> right,
                   Transposed right_transposed, MatrixView<float> out_MN) {
  Multiply(sgemm_, m, n, k, scale, left, left_transposed, right, right_transposed, out_MN);
}

void MultiplySmall(int64_t m, int64_t n, int64_t k, double scale, MatrixView<const double> left,
                   Transposed left_transposed, MatrixView<const double> right,
                   Transposed right_transposed, MatrixView<double> out_MN) {
  Multiply(dgemm_, m, n, k, scale, left, left_transposed, right, right_transposed, out_MN);
}

}  // namespace albef
