// Samples whose content could not be used, and their log.
#ifndef ALBEF_DATALOADER_BAD_SAMPLE_H_
#define ALBEF_DATALOADER_BAD_SAMPLE_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

// A bad sample and what was read in its place.
struct BadSample {
  int64_t position = 0;      // sample position, counted on over all epochs
  int64_t sample_index = 0;  // in the source
  std::string image = {};
  // missing_image, damaged_image, invalid_image, empty_caption or invalid_utf8.
  std::string reason = {};
  std::string detail = {};
  int64_t substitute_index = 0;
  std::string substitute = {};  // its image
};

// One JSON object without line breaks.
std::string ToJson(const BadSample& sample);

// bad_samples.jsonl: one line per bad sample, appended to what earlier runs left. A line that
// cannot be written (full disk) is dropped and counted: the log must not stop a run. Not
// thread-safe.
class BadSampleLog {
 public:
  static absl::StatusOr<BadSampleLog> Open(const std::filesystem::path& path);

  void Append(const BadSample& sample);
  int64_t dropped_lines() const { return dropped_lines_; }

 private:
  BadSampleLog(FileDescriptor file, std::filesystem::path path)
      : file_(std::move(file)), path_(std::move(path)) {}

  FileDescriptor file_;
  std::filesystem::path path_;
  int64_t dropped_lines_ = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_BAD_SAMPLE_H_
