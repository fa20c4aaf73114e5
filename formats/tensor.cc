#include "formats/tensor.h"

#include <algorithm>
#include <array>

namespace albef {
namespace {

struct DTypeInfo {
  DType dtype;
  size_t size;
  std::string_view name;
};

// Indexed by the enumerator.
constexpr std::array kDTypes = {
    DTypeInfo{DType::kBool, 1, "BOOL"}, DTypeInfo{DType::kU8, 1, "U8"},
    DTypeInfo{DType::kI8, 1, "I8"},     DTypeInfo{DType::kU16, 2, "U16"},
    DTypeInfo{DType::kI16, 2, "I16"},   DTypeInfo{DType::kU32, 4, "U32"},
    DTypeInfo{DType::kI32, 4, "I32"},   DTypeInfo{DType::kU64, 8, "U64"},
    DTypeInfo{DType::kI64, 8, "I64"},   DTypeInfo{DType::kF16, 2, "F16"},
    DTypeInfo{DType::kBF16, 2, "BF16"}, DTypeInfo{DType::kF32, 4, "F32"},
    DTypeInfo{DType::kF64, 8, "F64"},
};

constexpr bool IndexedByDType() {
  for (size_t i = 0; i < kDTypes.size(); ++i) {
    if (static_cast<size_t>(kDTypes[i].dtype) != i) return false;
  }
  return true;
}
static_assert(IndexedByDType());

}  // namespace

size_t ElementSize(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }

std::string_view DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  const auto found = std::ranges::find(kDTypes, name, &DTypeInfo::name);
  if (found == kDTypes.end()) return std::nullopt;
  return found->dtype;
}

std::optional<int64_t> NumElements(std::span<const int64_t> shape) {
  if (std::ranges::any_of(shape, [](int64_t size) { return size < 0; })) return std::nullopt;
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  int64_t product = 1;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(product, size, &product)) return std::nullopt;
  }
  return product;
}

std::optional<size_t> ByteSize(DType dtype, std::span<const int64_t> shape) {
  const std::optional<int64_t> elements = NumElements(shape);
  int64_t bytes = 0;
  if (!elements.has_value() ||
      __builtin_mul_overflow(*elements, static_cast<int64_t>(ElementSize(dtype)), &bytes)) {
    return std::nullopt;
  }
  return static_cast<size_t>(bytes);
}

}  // namespace albef
