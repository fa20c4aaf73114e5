// ALBEF annotation files: JSON lists of {"image": path, "caption": string or [strings], …}.
#ifndef ALBEF_DATALOADER_ANNOTATIONS_H_
#define ALBEF_DATALOADER_ANNOTATIONS_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dataloader/sample_source.h"

namespace albef {

// The samples of several files one after the other, in memory: their text once, and 8 bytes per
// string and per sample. Immutable once loaded; safe to read from any thread.
class Annotations : public SampleSource {
 public:
  // Relative image paths are relative to `root`; keys other than "image" and "caption" are ignored.
  //
  // Errors name file and byte offset (counted from 0), and the sample where there is one. Bytes
  // that are not UTF-8 and escapes of lone surrogates are no error here: they reach the caption,
  // and whoever reads it judges that one sample.
  static absl::StatusOr<Annotations> Load(std::span<const std::filesystem::path> files,
                                          const std::filesystem::path& root);

  int64_t size() const override { return static_cast<int64_t>(sample_begin_.size()) - 1; }
  Sample Get(int64_t index) const override;

 private:
  explicit Annotations(std::filesystem::path root) : root_(std::move(root)) {}

  absl::Status Append(const std::filesystem::path& file);
  std::string_view String(uint64_t index) const;

  std::filesystem::path root_;
  std::string text_;                          // all strings, one after the other
  std::vector<uint64_t> string_begin_ = {0};  // of each in text_, and the end of the last
  // The strings of sample i are [sample_begin_[i], sample_begin_[i + 1]): its image, its captions.
  std::vector<uint64_t> sample_begin_ = {0};
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_ANNOTATIONS_H_
