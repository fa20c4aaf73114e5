// Small matrix products inside a parallel loop, where LibTorch's operators would cost more than the
// product: the BLAS that LibTorch itself multiplies with.
#ifndef ALBEF_MODEL_BLAS_H_
#define ALBEF_MODEL_BLAS_H_

#include <cstdint>

namespace albef {

// A matrix in memory, row by row, `stride` elements from one row to the next.
template <typename T>
struct MatrixView {
  T* data;
  int64_t stride;
};

// While one exists, the calling thread multiplies alone. To be made in each task of a parallel
// loop: the BLAS would otherwise ask for a team of threads at every product.
class SerialBlas {
 public:
  SerialBlas();
  ~SerialBlas();
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;

 private:
  int previous_ = 0;
};

enum class Transposed : bool { kNo, kYes };

// out_MN = scale · left · right, where `left` is (M,K), or (K,M) and read transposed, and `right`
// is (K,N), or (N,K).
void MultiplySmall(int64_t m, int64_t n, int64_t k, float scale, MatrixView<const float> left,
                   Transposed left_transposed, MatrixView<const float> right,
                   Transposed right_transposed, MatrixView<float> out_MN);
void MultiplySmall(int64_t m, int64_t n, int64_t k, double scale, MatrixView<const double> left,
                   Transposed left_transposed, MatrixView<const double> right,
                   Transposed right_transposed, MatrixView<double> out_MN);

}  // namespace albef

#endif  // ALBEF_MODEL_BLAS_H_
