#include "formats/torch_types.h"

#include <algorithm>
#include <array>
#include <string>

namespace albef {
namespace {

constexpr std::array kStorageTypes = {
    TorchStorageType{"torch.BoolStorage", 1, DType::kBool},
    TorchStorageType{"torch.ByteStorage", 1, DType::kU8},
    TorchStorageType{"torch.CharStorage", 1, DType::kI8},
    TorchStorageType{"torch.ShortStorage", 2, DType::kI16},
    TorchStorageType{"torch.IntStorage", 4, DType::kI32},
    TorchStorageType{"torch.LongStorage", 8, DType::kI64},
    TorchStorageType{"torch.HalfStorage", 2, DType::kF16},
    TorchStorageType{"torch.BFloat16Storage", 2, DType::kBF16},
    TorchStorageType{"torch.FloatStorage", 4, DType::kF32},
    TorchStorageType{"torch.DoubleStorage", 8, DType::kF64},
    TorchStorageType{"torch.ComplexFloatStorage", 8, std::nullopt},
    TorchStorageType{"torch.ComplexDoubleStorage", 16, std::nullopt},
    TorchStorageType{"torch.QInt8Storage", 1, std::nullopt},
    TorchStorageType{"torch.QUInt8Storage", 1, std::nullopt},
    TorchStorageType{"torch.QInt32Storage", 4, std::nullopt},
    TorchStorageType{"torch.UntypedStorage", 1, std::nullopt},
    TorchStorageType{"torch.storage.UntypedStorage", 1, std::nullopt},
};

struct NamedDType {
  std::string_view name;
  DType dtype;
};

constexpr std::array kDTypes = {
    NamedDType{"torch.bool", DType::kBool},     NamedDType{"torch.uint8", DType::kU8},
    NamedDType{"torch.int8", DType::kI8},       NamedDType{"torch.uint16", DType::kU16},
    NamedDType{"torch.int16", DType::kI16},     NamedDType{"torch.uint32", DType::kU32},
    NamedDType{"torch.int32", DType::kI32},     NamedDType{"torch.uint64", DType::kU64},
    NamedDType{"torch.int64", DType::kI64},     NamedDType{"torch.float16", DType::kF16},
    NamedDType{"torch.bfloat16", DType::kBF16}, NamedDType{"torch.float32", DType::kF32},
    NamedDType{"torch.float64", DType::kF64},
};

}  // namespace

const TorchStorageType* FindTorchStorageType(std::string_view global) {
  constexpr std::string_view kOnGpu = "torch.cuda.";
  const std::string name = global.starts_with(kOnGpu)
                               ? "torch." + std::string(global.substr(kOnGpu.size()))
                               : std::string(global);
  const auto found = std::ranges::find(kStorageTypes, name, &TorchStorageType::name);
  return found != kStorageTypes.end() ? &*found : nullptr;
}

const TorchStorageType* TorchStorageTypeOf(DType dtype) {
  const auto found =
      std::ranges::find(kStorageTypes, std::optional(dtype), &TorchStorageType::dtype);
  return found != kStorageTypes.end() ? &*found : nullptr;
}

std::optional<DType> TorchDTypeFromName(std::string_view global) {
  const auto found = std::ranges::find(kDTypes, global, &NamedDType::name);
  if (found == kDTypes.end()) return std::nullopt;
  return found->dtype;
}

}  // namespace albef
