#include "model/weights_file.h"

#include <fmt/format.h>

#include <cstdint>
#include <system_error>
#include <utility>

#include "checkpoint/catalogue.h"
#include "checkpoint/loaded_checkpoint.h"
#include "common/status_macros.h"
#include "formats/pth.h"
#include "formats/safetensors.h"
#include "model/tensor_io.h"

namespace albef {
namespace {

torch::Tensor Borrow(const TensorView& view, const std::shared_ptr<const void>& owner) {
  const bool is_aligned =
      reinterpret_cast<uintptr_t>(view.bytes.data()) % ElementSize(view.dtype) == 0;
  if (!is_aligned || view.bytes.empty()) return CopyTensor(view);
  // LibTorch has no read-only tensors; nothing writes to these.
  return torch::from_blob(
      const_cast<std::byte*>(view.bytes.data()), view.shape, [owner](void*) {},
      torch::dtype(ToScalarType(view.dtype)));
}

// The tensors of a checkpoint of ours, verified.
absl::StatusOr<TensorMap> ReadCheckpoint(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::filesystem::path folder, FindCheckpoint(path));
  ASSIGN_OR_RETURN(LoadedCheckpoint opened, LoadedCheckpoint::Open(folder));
  const auto checkpoint = std::make_shared<const LoadedCheckpoint>(std::move(opened));
  TensorMap tensors;
  for (const ManifestTensor& tensor : checkpoint->manifest().tensors) {
    const auto& [name, dtype, shape] = tensor.info;
    ASSIGN_OR_RETURN(const auto pieces, checkpoint->Pieces(name));
    if (pieces.size() == 1) {
      tensors.emplace(
          name, Borrow({.dtype = dtype, .shape = shape, .bytes = pieces.front()}, checkpoint));
      continue;
    }
    torch::Tensor whole = torch::empty(shape, torch::dtype(ToScalarType(dtype)));
    RETURN_IF_ERROR(
        checkpoint->CopyTensor(name, {static_cast<std::byte*>(whole.data_ptr()), whole.nbytes()}));
    tensors.emplace(name, std::move(whole));
  }
  return tensors;
}

}  // namespace

TensorMap TensorsOf(const PickleValue& dict, const std::shared_ptr<const void>& owner) {
  TensorMap tensors;
  for (const auto& [key, value] : dict.items()) {
    const auto name = key.AsString();
    const auto tensor = value.AsTensor();
    if (name.ok() && tensor.ok()) {
      tensors.emplace(std::string(*name), Borrow((*tensor)->view, owner));
    }
  }
  return tensors;
}

absl::StatusOr<TensorMap> ReadWeights(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return ReadCheckpoint(path);
  TensorMap tensors;
  if (path.extension() == ".safetensors") {
    ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
    const auto file = std::make_shared<const SafetensorsFile>(std::move(opened));
    for (const NamedTensor& tensor : file->tensors()) {
      tensors.emplace(tensor.name, Borrow(tensor.tensor, file));
    }
  } else {
    ASSIGN_OR_RETURN(PthFile opened, PthFile::Open(path));
    const auto file = std::make_shared<const PthFile>(std::move(opened));
    PickleValue dict = file->root();
    for (const std::string_view key : {"model", "state_dict"}) {
      if (auto inner = dict.Find(key); inner.ok() && !inner->items().empty()) {
        dict = *std::move(inner);
        break;
      }
    }
    tensors = TensorsOf(dict, file);
  }
  if (tensors.empty()) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: holds no named tensors; expected a state dict, alone or under the key \"model\"",
        path.string()));
  }
  return tensors;
}

}  // namespace albef
