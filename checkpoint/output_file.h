// A file of a checkpoint under construction: written in pieces, hashed on the way, durable at the
// end. Its folder is private until the checkpoint is committed, so it carries its final name.
#ifndef ALBEF_CHECKPOINT_OUTPUT_FILE_H_
#define ALBEF_CHECKPOINT_OUTPUT_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/digest.h"
#include "common/file.h"

namespace albef {

// Writes all bytes at the descriptor's place; WriteAll, or in a test what fails as storage fails.
using WriteFunction = std::function<absl::Status(int fd, std::span<const std::byte> bytes,
                                                 const std::filesystem::path& path)>;

// Destroyed without Finish, it leaves the file as far as it came.
class OutputFile {
 public:
  // Replaces what is at `path`.
  static absl::StatusOr<OutputFile> Create(std::filesystem::path path, WriteFunction write);

  absl::Status Write(std::span<const std::byte> bytes);

  // Syncs and closes.
  absl::Status Finish();

  uint64_t num_bytes() const { return num_bytes_; }
  Hash128 hash() const { return hash_.Finish(); }

 private:
  OutputFile(std::filesystem::path path, FileDescriptor fd, WriteFunction write)
      : path_(std::move(path)), fd_(std::move(fd)), write_(std::move(write)) {}

  std::filesystem::path path_;
  FileDescriptor fd_;
  WriteFunction write_;
  StreamHash hash_;
  uint64_t num_bytes_ = 0;
};

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_OUTPUT_FILE_H_
