// Fuzz target: any bytes are a safetensors file whose views are all readable and aligned, or an
// error.
#include <cstdint>
#include <cstdlib>
#include <numeric>

#include "formats/safetensors.h"
#include "tests/formats/fuzz/seeds.h"

namespace albef {

std::vector<std::string> FuzzSeeds() {
  const std::vector<std::byte> bytes(64);
  const std::vector<NamedTensor> tensors = {
      {"weight", {DType::kF32, {2, 3}, std::span(bytes).first(24)}},
      {"empty", {DType::kF64, {4, 0}, {}}},
      {"mask", {DType::kBool, {3}, std::span(bytes).first(3)}},
  };
  const auto file = [&bytes](std::span<const NamedTensor> held, size_t data_bytes) {
    const std::map<std::string, std::string> metadata = {{"format", "pt"}};
    std::string content = *SafetensorsHeader(held, metadata);
    return content.append(reinterpret_cast<const char*>(bytes.data()), data_bytes);
  };
  return {file(tensors, 27), file(std::span(tensors).first(1), 24), file({}, 0)};
}

}  // namespace albef

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = albef::SafetensorsFile::Parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  size_t total = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto begin = reinterpret_cast<uintptr_t>(tensor.bytes.data());
    if (!file->Find(name).ok() ||
        albef::ByteSize(tensor.dtype, tensor.shape) != tensor.bytes.size() ||
        (!tensor.bytes.empty() && begin % albef::ElementSize(tensor.dtype) != 0)) {
      std::abort();
    }
    for (const std::byte byte : tensor.bytes) total += static_cast<size_t>(byte);
  }
  return total > size * 255 ? -1 : 0;
}
