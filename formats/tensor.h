// Element types and host-memory tensors as the file formats know them, free of LibTorch.
#ifndef ALBEF_FORMATS_TENSOR_H_
#define ALBEF_FORMATS_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace albef {

enum class DType { kBool, kU8, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64 };

// Bytes of one element.
size_t ElementSize(DType dtype);

// A dense little-endian row-major tensor in memory that somebody else owns.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

}  // namespace albef

#endif  // ALBEF_FORMATS_TENSOR_H_
