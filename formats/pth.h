// Files of torch.save: a reader of the zip format and of the older one (before PyTorch 1.6), and a
// writer of the zip format. Both know tensors as plain memory, whatever device they were on.
//
// Files are hostile input; see formats/zip.h and formats/pickle.h. Tensors that reach outside their
// storage, storages that are not as long as they claim and numbers that overflow are refused with
// INVALID_ARGUMENT. Nothing in a file is ever called: classes that are not data stay inert
// (PickleValue::Kind::kObject) and are listed, the rest of the file is read all the same.
#ifndef ALBEF_FORMATS_PTH_H_
#define ALBEF_FORMATS_PTH_H_

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "formats/pickle_value.h"

namespace albef {

// A loaded file, usually .pth, .pt or .bin. Tensor views live as long as it. They refer to the
// mapped file where they stand there dense and aligned, as they do in files of the zip format; the
// others (views with strides, the old format) are copied when the file is opened. Every CRC-32 of
// what is used has been checked. Immutable; safe to read from any thread.
class PthFile {
 public:
  static absl::StatusOr<PthFile> Open(const std::filesystem::path& path);

  // The same for a file in memory; `bytes` must outlive the result. `name` is what errors call it.
  static absl::StatusOr<PthFile> Parse(std::span<const std::byte> bytes, const std::string& name);

  // What was given to torch.save.
  const PickleValue& root() const { return root_; }

  // Classes and functions that were not understood, sorted; their objects are inert.
  const std::vector<std::string>& unknown_classes() const { return unknown_classes_; }

 private:
  PthFile(PickleValue root, std::vector<std::string> unknown_classes)
      : root_(std::move(root)), unknown_classes_(std::move(unknown_classes)) {}

  std::optional<MappedFile> file_;
  PickleValue root_;
  std::vector<std::string> unknown_classes_;
};

// Replaces `path` atomically and durably by a file that torch.load reads, also with
// weights_only=True and mmap=True. `root` may hold None, bool, int, float, str, list, tuple, dict,
// OrderedDict and tensors; anything else is INVALID_ARGUMENT and names its place.
//
// Tensors whose views are the same bytes are tied: they share one storage. Every storage holds
// exactly the elements of its tensors. Tensor data goes from where it is straight to the file.
absl::Status WritePth(const std::filesystem::path& path, const PickleValue& root);

}  // namespace albef

#endif  // ALBEF_FORMATS_PTH_H_
