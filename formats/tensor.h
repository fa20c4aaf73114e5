// Element types and host-memory tensors as the file formats know them, free of LibTorch.
#ifndef ALBEF_FORMATS_TENSOR_H_
#define ALBEF_FORMATS_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace albef {

enum class DType {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
};

// Bytes of one element.
size_t ElementSize(DType dtype);

// The name safetensors uses: "F32", "BF16", "I64" …
std::string_view DTypeName(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

// Elements of a dense tensor of this shape; nothing for a negative size or a product that does not
// fit in int64. An empty dimension makes the tensor empty whatever the others are.
std::optional<int64_t> NumElements(std::span<const int64_t> shape);

// Bytes of a dense tensor, under the same conditions.
std::optional<size_t> ByteSize(DType dtype, std::span<const int64_t> shape);

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
