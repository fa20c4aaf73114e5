#include "checkpoint/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "common/status_macros.h"

namespace albef {

absl::StatusOr<OutputFile> OutputFile::Create(std::filesystem::path path, WriteFunction write) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  return OutputFile(std::move(path), std::move(fd), std::move(write));
}

absl::Status OutputFile::Write(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(write_(fd_.get(), bytes, path_));
  hash_.Update(bytes);
  num_bytes_ += bytes.size();
  return absl::OkStatus();
}

absl::Status OutputFile::Finish() {
  if (::fsync(fd_.get()) != 0) return ErrnoStatus(errno, "sync", path_);
  return fd_.Close(path_);
}

}  // namespace albef
