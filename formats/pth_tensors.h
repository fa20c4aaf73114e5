// The tensors of a .pth file: storages, which persistent ids of the pickle name, and the tensors
// that lie in them. Private to pth_reader.cc; the containers (zip, the old format) are its own.
//
// Input is hostile: sizes and places are checked against the storages. Errors are INVALID_ARGUMENT
// and name the file and the storage.
#ifndef ALBEF_FORMATS_PTH_TENSORS_H_
#define ALBEF_FORMATS_PTH_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/pickle_value.h"
#include "formats/torch_types.h"

namespace albef {

// The storages of a file. The bytes are looked up when a tensor first needs them: they and what the
// source refers to must outlive the tensors and the last Load. Not thread-safe.
class PthStorages {
 public:
  using Find = std::function<absl::StatusOr<std::span<const std::byte>>(const std::string& key)>;

  struct Storage {
    const TorchStorageType* type;
    uint64_t bytes;
    std::optional<std::span<const std::byte>> data;
    std::shared_ptr<const std::vector<std::byte>> owned;
  };

  // Every storage that `root` refers to. `name` is what errors call the file.
  static absl::StatusOr<PthStorages> Collect(const PickleValue& root, std::string name);

  const std::string& name() const { return name_; }
  void SetSource(Find find) { find_ = std::move(find); }

  // Null for an unknown key.
  const Storage* Describe(const std::string& key) const;

  // With its data, aligned for `alignment` bytes.
  absl::StatusOr<const Storage*> Load(const std::string& key, size_t alignment);

 private:
  explicit PthStorages(std::string name) : name_(std::move(name)) {}

  std::string name_;
  Find find_;
  std::map<std::string, Storage> storages_;
};

// Turns the inert objects in `root` that stand for tensors into tensors; what is not understood
// stays inert. `file_bytes` bounds the copies that tensors with strides need.
absl::Status BuildTensors(PickleValue& root, PthStorages storages, size_t file_bytes);

// Whether this is what BuildTensors, or the pickle reader, makes data of: all other classes and
// functions stay inert.
bool IsKnownGlobal(std::string_view global);

}  // namespace albef

#endif  // ALBEF_FORMATS_PTH_TENSORS_H_
