#include "formats/pth_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "common/status_macros.h"
#include "formats/pickle_node.h"
#include "formats/utf8.h"

namespace albef {
namespace {

using Bytes = std::span<const std::byte>;
using Kind = PickleValue::Kind;

constexpr size_t kMaxRank = 64;
// Copies of tensors with strides: real ones stay below the size of the file, a bomb does not.
constexpr size_t kMaxCopiedPerFileByte = 4;
constexpr size_t kMaxCopiedAnyway = 1 << 20;

// Globals that are understood, besides storages and element types.
constexpr std::array<std::string_view, 9> kKnownGlobals = {
    "_codecs.encode",
    "builtins.frozenset",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
};

absl::Status Named(std::string_view name, const absl::Status& status) {
  return absl::Status(status.code(), fmt::format("{}: {}", name, std::string(status.message())));
}

// What a persistent id says about a storage.
struct StorageId {
  const TorchStorageType* type;
  std::string key;
  uint64_t bytes;
};

// Nothing for an id that is not a storage's, or of a class that is not known.
absl::StatusOr<std::optional<StorageId>> ParseStorageId(const PickleValue& persistent_id) {
  const std::span<const PickleValue> parts = persistent_id.args().elements();
  if (parts.empty() || parts[0].text() != "storage") return std::nullopt;
  if (parts.size() != 5 && parts.size() != 6) {
    return absl::InvalidArgumentError("a storage id without its 5 or 6 parts");
  }
  const TorchStorageType* type = FindTorchStorageType(parts[1].class_name());
  if (type == nullptr) return std::nullopt;
  const absl::StatusOr<std::string_view> key = parts[2].AsString();
  const absl::StatusOr<int64_t> elements = parts[4].AsInt();
  uint64_t bytes = 0;
  if (!key.ok() || !elements.ok() || *elements < 0 ||
      __builtin_mul_overflow(static_cast<uint64_t>(*elements), type->element_bytes, &bytes)) {
    return absl::InvalidArgumentError(
        "a storage id whose key is not a str or whose size is not in [0, 2^63)");
  }
  if (parts.size() == 6 && !parts[5].is_none()) {
    return absl::InvalidArgumentError(
        fmt::format("storage {} is a view of another, which PyTorch has not written "
                    "since 0.4; load and save the file with a newer version",
                    Quoted(*key)));
  }
  return StorageId{.type = type, .key = std::string(*key), .bytes = bytes};
}

// Where in a storage the elements of a tensor are.
struct Placement {
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;

  auto operator<=>(const Placement&) const = default;
};

absl::StatusOr<std::vector<int64_t>> ParseSizes(const PickleValue& value) {
  if (value.kind() != Kind::kTuple && value.kind() != Kind::kList) {
    return absl::InvalidArgumentError("shape or strides are not a tuple");
  }
  if (value.elements().size() > kMaxRank) {
    return absl::InvalidArgumentError(fmt::format("more than {} dimensions", kMaxRank));
  }
  std::vector<int64_t> sizes;
  for (const PickleValue& element : value.elements()) {
    ASSIGN_OR_RETURN(const int64_t size, element.AsInt());
    if (size < 0) {
      return absl::InvalidArgumentError(fmt::format("a negative size or stride {}", size));
    }
    sizes.push_back(size);
  }
  return sizes;
}

bool IsDense(const Placement& placement) {
  int64_t expected = 1;
  for (size_t i = placement.shape.size(); i-- > 0;) {
    if (placement.shape[i] == 1) continue;
    if (placement.strides[i] != expected) return false;
    expected *= placement.shape[i];
  }
  return true;
}

// One past the last element it refers to; nothing if that overflows.
std::optional<int64_t> End(const Placement& placement) {
  int64_t last = placement.offset;
  for (size_t i = 0; i < placement.shape.size(); ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(placement.shape[i] - 1, placement.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return std::nullopt;
    }
  }
  int64_t end = 0;
  if (__builtin_add_overflow(last, 1, &end)) return std::nullopt;
  return end;
}

// The elements in row-major order.
std::vector<std::byte> Gather(Bytes storage, size_t element_bytes, const Placement& placement,
                              size_t total_bytes) {
  std::vector<std::byte> dense(total_bytes);
  const std::vector<int64_t>& shape = placement.shape;
  std::vector<int64_t> index(shape.size());
  int64_t source = placement.offset;
  for (size_t to = 0; to < total_bytes; to += element_bytes) {
    std::memcpy(&dense[to], &storage[static_cast<size_t>(source) * element_bytes], element_bytes);
    for (size_t i = shape.size(); i-- > 0;) {
      source += placement.strides[i];
      if (++index[i] < shape[i]) break;
      source -= placement.strides[i] * shape[i];
      index[i] = 0;
    }
  }
  return dense;
}

// Turns the inert objects that stand for tensors into tensors.
class TensorBuilder {
 public:
  TensorBuilder(PthStorages storages, size_t file_bytes)
      : storages_(std::move(storages)),
        copy_budget_(std::max(kMaxCopiedAnyway, kMaxCopiedPerFileByte * file_bytes)) {}

  // What to put in the place of an object; nothing leaves it inert.
  absl::StatusOr<std::optional<PickleValue>> Replace(const PickleValue& object) {
    const std::string_view name = object.class_name();
    const std::span<const PickleValue> args = object.args().elements();
    if (name == "torch._utils._rebuild_tensor" || name == "torch._utils._rebuild_tensor_v2" ||
        name == "torch._utils._rebuild_tensor_v3") {
      return Tensor(args, name.ends_with("v3"));
    }
    // (tensor, requires_grad, hooks)
    if (name == "torch._utils._rebuild_parameter" && args.size() >= 2 &&
        args[0].kind() == Kind::kTensor) {
      ASSIGN_OR_RETURN(const PickleTensor* const data, args[0].AsTensor());
      PickleTensor parameter = *data;
      const absl::StatusOr<bool> requires_grad = args[1].AsBool();
      if (!requires_grad.ok()) {
        return Named(fmt::format("{}: a parameter's requires_grad", storages_.name()),
                     requires_grad.status());
      }
      parameter.requires_grad = *requires_grad;
      return PickleValue::Tensor(std::move(parameter));
    }
    if (name == "torch.Size" && args.size() == 1 && args[0].kind() == Kind::kTuple) return args[0];
    return std::nullopt;
  }

 private:
  // (storage, offset, shape, strides[, requires_grad, hooks[, dtype]])
  absl::StatusOr<std::optional<PickleValue>> Tensor(std::span<const PickleValue> args,
                                                    bool has_dtype) {
    if (args.size() < (has_dtype ? 7 : 4)) {
      return absl::InvalidArgumentError(
          fmt::format("{}: a tensor without all its arguments", storages_.name()));
    }
    if (args[0].kind() != Kind::kPersistentId) return std::nullopt;
    ASSIGN_OR_RETURN(const std::optional<StorageId> id, ParseStorageId(args[0]));
    if (!id.has_value()) return std::nullopt;
    const std::optional<DType> dtype =
        has_dtype ? TorchDTypeFromName(args[6].class_name()) : id->type->dtype;
    if (!dtype.has_value()) return std::nullopt;

    const absl::StatusOr<Description> description = Describe(*id, *dtype, args.subspan(1));
    if (!description.ok()) {
      return Named(fmt::format("{}: tensor in storage {}", storages_.name(), Quoted(id->key)),
                   description.status());
    }
    ASSIGN_OR_RETURN(PickleTensor tensor, Build(*id, *dtype, *description));
    return PickleValue::Tensor(std::move(tensor));
  }

  struct Description {
    Placement placement;  // inside the storage, unless there are no elements
    size_t bytes = 0;
    bool requires_grad = false;
  };

  static absl::StatusOr<Description> Describe(const StorageId& id, DType dtype,
                                              std::span<const PickleValue> args) {
    Description result;
    Placement& placement = result.placement;
    ASSIGN_OR_RETURN(placement.offset, args[0].AsInt());
    ASSIGN_OR_RETURN(placement.shape, ParseSizes(args[1]));
    ASSIGN_OR_RETURN(placement.strides, ParseSizes(args[2]));
    if (args.size() > 3) {
      ASSIGN_OR_RETURN(result.requires_grad, args[3].AsBool());
    }
    const std::optional<size_t> bytes = ByteSize(dtype, placement.shape);
    if (placement.offset < 0 || placement.shape.size() != placement.strides.size() ||
        !bytes.has_value()) {
      return absl::InvalidArgumentError("offset, shape or strides are not possible");
    }
    result.bytes = *bytes;
    const std::optional<int64_t> end = *bytes == 0 ? 0 : End(placement);
    if (!end.has_value() || static_cast<uint64_t>(*end) > id.bytes / ElementSize(dtype)) {
      return absl::InvalidArgumentError(fmt::format(
          "offset {}, shape [{}] and strides [{}] reach outside its {} bytes", placement.offset,
          fmt::join(placement.shape, ", "), fmt::join(placement.strides, ", "), id.bytes));
    }
    return result;
  }

  absl::StatusOr<PickleTensor> Build(const StorageId& id, DType dtype,
                                     const Description& description) {
    const auto& [placement, bytes, requires_grad] = description;
    PickleTensor tensor{.view = {.dtype = dtype, .shape = placement.shape, .bytes = {}},
                        .storage_key = id.key,
                        .storage_offset = placement.offset,
                        .requires_grad = requires_grad,
                        .owned = {}};
    if (bytes == 0) return tensor;
    const size_t element_bytes = ElementSize(dtype);
    ASSIGN_OR_RETURN(const PthStorages::Storage* const storage,
                     storages_.Load(id.key, element_bytes));
    if (IsDense(placement)) {
      tensor.view.bytes =
          storage->data->subspan(static_cast<size_t>(placement.offset) * element_bytes, bytes);
      tensor.owned = storage->owned;
      return tensor;
    }
    // Tied tensors stay tied.
    auto& copy = copies_[{id.key, dtype, placement}];
    if (copy == nullptr) {
      if (bytes > copy_budget_) {
        return absl::InvalidArgumentError(
            fmt::format("{}: tensor in storage {}: repeating elements by strides makes "
                        "it much larger than the file",
                        storages_.name(), Quoted(id.key)));
      }
      copy_budget_ -= bytes;
      copy = std::make_shared<const std::vector<std::byte>>(
          Gather(*storage->data, element_bytes, placement, bytes));
    }
    tensor.view.bytes = *copy;
    tensor.owned = copy;
    return tensor;
  }

  PthStorages storages_;
  size_t copy_budget_;
  std::map<std::tuple<std::string, DType, Placement>, std::shared_ptr<const std::vector<std::byte>>>
      copies_;
};

}  // namespace

absl::StatusOr<PthStorages> PthStorages::Collect(const PickleValue& root, std::string name) {
  PthStorages storages(std::move(name));
  for (const PickleValue& value : NodesInnerFirst(root)) {
    if (value.kind() != Kind::kPersistentId) continue;
    const absl::StatusOr<std::optional<StorageId>> parsed = ParseStorageId(value);
    if (!parsed.ok()) return Named(storages.name_, parsed.status());
    const std::optional<StorageId>& id = *parsed;
    if (!id.has_value()) continue;
    const auto [place, is_new] =
        storages.storages_.emplace(id->key, Storage{id->type, id->bytes, {}, {}});
    if (!is_new && (place->second.type != id->type || place->second.bytes != id->bytes)) {
      return absl::InvalidArgumentError(
          fmt::format("{}: storage {} has two descriptions", storages.name_, Quoted(id->key)));
    }
  }
  return storages;
}

const PthStorages::Storage* PthStorages::Describe(const std::string& key) const {
  const auto found = storages_.find(key);
  return found != storages_.end() ? &found->second : nullptr;
}

absl::StatusOr<const PthStorages::Storage*> PthStorages::Load(const std::string& key,
                                                              size_t alignment) {
  Storage& storage = storages_.at(key);
  if (!storage.data.has_value()) {
    ASSIGN_OR_RETURN(const Bytes data, find_(key));
    if (data.size() != storage.bytes) {
      return absl::InvalidArgumentError(
          fmt::format("{}: storage {} should have {} bytes, the file has {}", name_, Quoted(key),
                      storage.bytes, data.size()));
    }
    storage.data = data;
  }
  if (reinterpret_cast<uintptr_t>(storage.data->data()) % alignment != 0) {
    storage.owned =
        std::make_shared<const std::vector<std::byte>>(storage.data->begin(), storage.data->end());
    storage.data = *storage.owned;
  }
  return &storage;
}

absl::Status BuildTensors(PickleValue& root, PthStorages storages, size_t file_bytes) {
  TensorBuilder builder(std::move(storages), file_bytes);
  return ReplaceObjects(root,
                        [&builder](const PickleValue& object) { return builder.Replace(object); });
}

bool IsKnownGlobal(std::string_view global) {
  const TorchStorageType* storage = FindTorchStorageType(global);
  return std::ranges::find(kKnownGlobals, global) != kKnownGlobals.end() ||
         TorchDTypeFromName(global).has_value() ||
         (storage != nullptr &&
          (storage->dtype.has_value() || global.ends_with(".UntypedStorage")));
}

}  // namespace albef
