// The safetensors container: an 8-byte header length, a JSON header, raw tensor bytes.
//
// Files are hostile input: lengths, offsets, overlaps, gaps, alignment, duplicate names, shapes
// whose product overflows and bytes that do not match dtype and shape are refused with
// INVALID_ARGUMENT naming the file and the tensor.
#ifndef ALBEF_FORMATS_SAFETENSORS_H_
#define ALBEF_FORMATS_SAFETENSORS_H_

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "formats/tensor.h"

namespace albef {

// A memory-mapped safetensors file. Immutable; safe to read from any thread. Views live as long as
// it, and are aligned for their element type.
class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);

  // The same for a file that stands in memory at a border of 8 bytes; `bytes` must outlive the
  // result. `name` is what errors call it.
  static absl::StatusOr<SafetensorsFile> Parse(std::span<const std::byte> bytes, std::string name);

  // In the order of the data in the file.
  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // NOT_FOUND names the file and the tensor.
  absl::StatusOr<TensorView> Find(std::string_view name) const;

 private:
  SafetensorsFile() = default;

  std::string name_;
  std::optional<MappedFile> file_;
  std::vector<NamedTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// The length-prefixed header, padded so that the data begins on an 8-byte border, of a file that
// holds `tensors` one after the other. Since the format has no gaps, each must end where the next
// can begin aligned; falling element sizes always do.
absl::StatusOr<std::string> SafetensorsHeader(std::span<const NamedTensor> tensors,
                                              const std::map<std::string, std::string>& metadata);

// Replaces `path` atomically and durably; on an error nothing is left behind. Tensors go into the
// file by falling element size, else in the given order.
absl::Status WriteSafetensors(const std::filesystem::path& path,
                              std::span<const NamedTensor> tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace albef

#endif  // ALBEF_FORMATS_SAFETENSORS_H_
