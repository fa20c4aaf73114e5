#include <fmt/format.h>

#include <bit>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "common/status_macros.h"
#include "formats/pickle_opcodes.h"
#include "formats/pth.h"
#include "formats/torch_types.h"
#include "formats/utf8.h"
#include "formats/zip.h"
#include "formats/zip_format.h"

namespace albef {
namespace {

using Kind = PickleValue::Kind;

constexpr uint8_t kProtocol = 2;
constexpr std::string_view kFolder = "archive/";
constexpr std::string_view kVersion = "3\n";

std::string KeyText(const PickleValue& key) {
  if (const absl::StatusOr<int64_t> number = key.AsInt(); number.ok()) {
    return fmt::format("[{}]", *number);
  }
  return fmt::format("[{}]", Quoted(key.text()));
}

// Writes protocol 2 with no other globals than OrderedDict, _rebuild_tensor_v2 and storage classes,
// which is what weights_only=True accepts.
class Pickler {
 public:
  absl::Status Write(const PickleValue& root) {
    Put(PickleOpcode::PROTO);
    bytes_.push_back(static_cast<char>(kProtocol));
    RETURN_IF_ERROR(Value(root));
    Put(PickleOpcode::STOP);
    return absl::OkStatus();
  }

  const std::string& bytes() const { return bytes_; }

  // Their index is their key.
  const std::vector<std::span<const std::byte>>& storages() const { return storages_; }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("root{}: {}", fmt::join(place_, ""), what));
  }

  void Put(PickleOpcode opcode) { bytes_.push_back(static_cast<char>(opcode)); }

  template <typename T>
  void Put(PickleOpcode opcode, T value) {
    Put(opcode);
    zip::Append(bytes_, value);
  }

  void Global(std::string_view module, std::string_view name) {
    Put(PickleOpcode::GLOBAL);
    bytes_.append(module).append("\n").append(name).append("\n");
  }

  void Bool(bool value) { Put(value ? PickleOpcode::NEWTRUE : PickleOpcode::NEWFALSE); }

  void Int(int64_t value) {
    if (value >= std::numeric_limits<int32_t>::min() &&
        value <= std::numeric_limits<int32_t>::max()) {
      Put(PickleOpcode::BININT, static_cast<int32_t>(value));
      return;
    }
    Put(PickleOpcode::LONG1, static_cast<uint8_t>(sizeof(value)));
    zip::Append(bytes_, value);
  }

  absl::Status String(std::string_view text) {
    if (text.size() > std::numeric_limits<uint32_t>::max()) return Error("a str of over 4 GiB");
    Put(PickleOpcode::BINUNICODE, static_cast<uint32_t>(text.size()));
    bytes_.append(text);
    return absl::OkStatus();
  }

  absl::Status Items(std::span<const PickleValue::Item> items) {
    std::set<int64_t> numbers;
    std::set<std::string_view> texts;
    Put(PickleOpcode::MARK);
    for (const auto& [key, value] : items) {
      place_.push_back(KeyText(key));
      const bool is_new = key.kind() == Kind::kString ? texts.insert(key.text()).second
                          : key.kind() == Kind::kInt  ? numbers.insert(*key.AsInt()).second
                                                      : true;
      if (!is_new) return Error("this key is there twice");
      if (key.kind() == Kind::kList || key.kind() == Kind::kDict || key.kind() == Kind::kTensor) {
        return Error(fmt::format("a {} cannot be a key", KindName(key.kind())));
      }
      RETURN_IF_ERROR(Value(key));
      RETURN_IF_ERROR(Value(value));
      place_.pop_back();
    }
    Put(PickleOpcode::SETITEMS);
    return absl::OkStatus();
  }

  absl::Status Elements(std::span<const PickleValue> elements) {
    for (size_t i = 0; i < elements.size(); ++i) {
      place_.push_back(fmt::format("[{}]", i));
      RETURN_IF_ERROR(Value(elements[i]));
      place_.pop_back();
    }
    return absl::OkStatus();
  }

  void Sizes(std::span<const int64_t> sizes) {
    Put(PickleOpcode::MARK);
    for (const int64_t size : sizes) Int(size);
    Put(PickleOpcode::TUPLE);
  }

  void EmptyOrderedDict() {
    Global("collections", "OrderedDict");
    Put(PickleOpcode::EMPTY_TUPLE);
    Put(PickleOpcode::REDUCE);
  }

  // Tied tensors get the same index.
  size_t StorageIndex(const TensorView& view) {
    if (!view.bytes.empty()) {
      const auto [found, is_new] =
          index_.try_emplace({view.bytes.data(), view.bytes.size(), view.dtype}, storages_.size());
      if (!is_new) return found->second;
    }
    storages_.push_back(view.bytes);
    return storages_.size() - 1;
  }

  absl::Status Tensor(const PickleTensor& tensor) {
    const TensorView& view = tensor.view;
    const TorchStorageType* type = TorchStorageTypeOf(view.dtype);
    if (type == nullptr) {
      return Error(fmt::format("PyTorch has no storage class for {}", DTypeName(view.dtype)));
    }
    if (ByteSize(view.dtype, view.shape) != view.bytes.size()) {
      return Error(fmt::format("shape [{}] of {} does not describe the tensor's {} bytes",
                               fmt::join(view.shape, ", "), DTypeName(view.dtype),
                               view.bytes.size()));
    }
    std::vector<int64_t> strides(view.shape.size());
    int64_t stride = 1;
    for (size_t i = view.shape.size(); i-- > 0;) {
      strides[i] = stride;
      if (view.shape[i] != 0 && __builtin_mul_overflow(stride, view.shape[i], &stride)) {
        return Error("the tensor's shape overflows");
      }
    }
    Global("torch._utils", "_rebuild_tensor_v2");
    Put(PickleOpcode::MARK);
    Put(PickleOpcode::MARK);
    RETURN_IF_ERROR(String("storage"));
    constexpr std::string_view kModule = "torch";
    Global(kModule, type->name.substr(kModule.size() + 1));
    RETURN_IF_ERROR(String(std::to_string(StorageIndex(view))));
    RETURN_IF_ERROR(String("cpu"));
    Int(static_cast<int64_t>(view.bytes.size() / type->element_bytes));
    Put(PickleOpcode::TUPLE);
    Put(PickleOpcode::BINPERSID);
    Int(0);  // offset in the storage
    Sizes(view.shape);
    Sizes(strides);
    Bool(tensor.requires_grad);
    EmptyOrderedDict();  // backward hooks
    Put(PickleOpcode::TUPLE);
    Put(PickleOpcode::REDUCE);
    return absl::OkStatus();
  }

  absl::Status Value(const PickleValue& value) {
    switch (value.kind()) {
      case Kind::kNone:
        Put(PickleOpcode::NONE);
        return absl::OkStatus();
      case Kind::kBool:
        Bool(*value.AsBool());
        return absl::OkStatus();
      case Kind::kInt:
        Int(*value.AsInt());
        return absl::OkStatus();
      case Kind::kFloat:
        Put(PickleOpcode::BINFLOAT, __builtin_bswap64(std::bit_cast<uint64_t>(*value.AsDouble())));
        return absl::OkStatus();
      case Kind::kString:
        return String(value.text());
      case Kind::kList:
        Put(PickleOpcode::EMPTY_LIST);
        Put(PickleOpcode::MARK);
        RETURN_IF_ERROR(Elements(value.elements()));
        Put(PickleOpcode::APPENDS);
        return absl::OkStatus();
      case Kind::kTuple:
        Put(PickleOpcode::MARK);
        RETURN_IF_ERROR(Elements(value.elements()));
        Put(PickleOpcode::TUPLE);
        return absl::OkStatus();
      case Kind::kDict:
        if (value.is_ordered_dict()) {
          EmptyOrderedDict();
        } else {
          Put(PickleOpcode::EMPTY_DICT);
        }
        RETURN_IF_ERROR(Items(value.items()));
        if (!value.state().is_none()) {
          RETURN_IF_ERROR(Value(value.state()));
          Put(PickleOpcode::BUILD);
        }
        return absl::OkStatus();
      case Kind::kTensor:
        return Tensor(**value.AsTensor());
      case Kind::kBigInt:
      case Kind::kBytes:
      case Kind::kSet:
      case Kind::kGlobal:
      case Kind::kObject:
      case Kind::kPersistentId:
      case Kind::kBackReference:
        break;
    }
    return Error(fmt::format("a {} cannot be written", KindName(value.kind())));
  }

  std::string bytes_;
  std::vector<std::string> place_;  // where in the value we are
  std::vector<std::span<const std::byte>> storages_;
  std::map<std::tuple<const std::byte*, size_t, DType>, size_t> index_;
};

}  // namespace

absl::Status WritePth(const std::filesystem::path& path, const PickleValue& root) {
  Pickler pickler;
  if (absl::Status status = pickler.Write(root); !status.ok()) {
    return absl::Status(status.code(), fmt::format("{}: cannot write {}", path.string(),
                                                   std::string(status.message())));
  }
  ASSIGN_OR_RETURN(ZipWriter zip, ZipWriter::Create(path));
  const auto add = [&zip](std::string_view entry, std::span<const std::byte> bytes) {
    return zip.Add(std::string(kFolder).append(entry), bytes);
  };
  constexpr std::string_view kByteOrder = "little";
  RETURN_IF_ERROR(add("data.pkl", std::as_bytes(std::span(pickler.bytes()))));
  RETURN_IF_ERROR(add("byteorder", std::as_bytes(std::span(kByteOrder))));
  for (size_t i = 0; i < pickler.storages().size(); ++i) {
    RETURN_IF_ERROR(add(fmt::format("data/{}", i), pickler.storages()[i]));
  }
  RETURN_IF_ERROR(add("version", std::as_bytes(std::span(kVersion))));
  return zip.Commit();
}

}  // namespace albef
