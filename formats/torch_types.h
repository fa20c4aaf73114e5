// How pickles written by PyTorch name element types.
#ifndef ALBEF_FORMATS_TORCH_TYPES_H_
#define ALBEF_FORMATS_TORCH_TYPES_H_

#include <cstddef>
#include <optional>
#include <string_view>

#include "formats/tensor.h"

namespace albef {

// The global of a storage class, on whatever device.
struct TorchStorageType {
  std::string_view name;       // "torch.FloatStorage"
  size_t element_bytes;        // 1 for an untyped storage
  std::optional<DType> dtype;  // none: untyped, complex or quantised
};

// Null for a name that is no storage class. Accepts "torch.cuda.FloatStorage" as well.
const TorchStorageType* FindTorchStorageType(std::string_view global);

// Null for types younger than typed storages: unsigned integers of more than 8 bits.
const TorchStorageType* TorchStorageTypeOf(DType dtype);

// "torch.float32" → kF32.
std::optional<DType> TorchDTypeFromName(std::string_view global);

}  // namespace albef

#endif  // ALBEF_FORMATS_TORCH_TYPES_H_
