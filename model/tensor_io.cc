#include "model/tensor_io.h"

#include <cstring>

namespace albef {

namespace {

struct TypePair {
  DType dtype;
  at::ScalarType scalar_type;
};

constexpr TypePair kTypes[] = {
    {DType::kBool, at::kBool},  {DType::kU8, at::kByte},       {DType::kU16, at::kUInt16},
    {DType::kU32, at::kUInt32}, {DType::kU64, at::kUInt64},    {DType::kI8, at::kChar},
    {DType::kI16, at::kShort},  {DType::kI32, at::kInt},       {DType::kI64, at::kLong},
    {DType::kF16, at::kHalf},   {DType::kBF16, at::kBFloat16}, {DType::kF32, at::kFloat},
    {DType::kF64, at::kDouble},
};

}  // namespace

at::ScalarType ToScalarType(DType dtype) {
  for (const TypePair& pair : kTypes) {
    if (pair.dtype == dtype) return pair.scalar_type;
  }
  TORCH_CHECK(false, "unknown element type ", static_cast<int>(dtype));
}

DType ToDType(at::ScalarType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.scalar_type == type) return pair.dtype;
  }
  TORCH_CHECK(false, "tensors of type ", type, " cannot be stored");
}

torch::Tensor CopyTensor(const TensorView& view) {
  torch::Tensor tensor = torch::empty(view.shape, ToScalarType(view.dtype));
  TORCH_CHECK(tensor.nbytes() == view.bytes.size(), "shape ", tensor.sizes(), " needs ",
              tensor.nbytes(), " bytes, got ", view.bytes.size());
  if (!view.bytes.empty()) std::memcpy(tensor.data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

TensorView ViewTensor(const torch::Tensor& tensor) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(),
              "expected a contiguous tensor in CPU memory, got one on ", tensor.device(),
              " with strides ", tensor.strides());
  return {.dtype = ToDType(tensor.scalar_type()),
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace albef
