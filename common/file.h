// Files whose loss is noticed: whole-file reads, atomic durable writes, descriptors and temporary
// folders that clean up after themselves. Errors name the path, the operation and errno's text; a
// full disk is RESOURCE_EXHAUSTED, a missing file NOT_FOUND, a path that can be no file (a folder,
// too long, a circle of links) INVALID_ARGUMENT, other trouble of storage UNAVAILABLE.
#ifndef ALBEF_COMMON_FILE_H_
#define ALBEF_COMMON_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// Owns a file descriptor. Movable; -1 is empty.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  // Closes now and reports what close() says; storage errors may show only here.
  absl::Status Close(const std::filesystem::path& path);

 private:
  int fd_ = -1;
};

// Read-only memory map of a whole file. Immutable; safe to read from any thread. A file that
// another process truncates while it is mapped raises SIGBUS: map only files that are replaced by
// rename.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A fresh folder under the system's temporary folder, removed with all it holds on destruction.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Status for a failed system call, from errno.
absl::Status ErrnoStatus(int error, std::string_view operation, const std::filesystem::path& path);

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path);

// The same into a string whose memory is reused; INVALID_ARGUMENT for more than `max_bytes`.
absl::Status ReadFileInto(const std::string& path, size_t max_bytes, std::string& content);

// Opens for reading. INVALID_ARGUMENT for what is no regular file: a pipe would be waited for, a
// device may never end.
absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path);

// ReadFileInto, of regular files only.
absl::Status ReadRegularFileInto(const std::string& path, size_t max_bytes, std::string& content);

// `size` bytes from `offset` on; DATA_LOSS where the file ends before. Any number of threads may
// read from one descriptor. `path` is for messages.
absl::Status ReadRange(const FileDescriptor& file, uint64_t offset, size_t size,
                       const std::string& path, std::string& content);

// Writes all bytes at the descriptor's place, whatever write() splits.
absl::Status WriteAll(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path);

// A file under construction, in pieces of any size: whoever reads `path` sees all of the old or all
// of the new, also after a crash or power cut (temporary file beside it, fsync, rename, fsync of
// the folder). Destroyed without Commit, it leaves nothing behind.
class AtomicFile {
 public:
  static absl::StatusOr<AtomicFile> Create(const std::filesystem::path& path, mode_t mode = 0644);
  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::exchange(other.temporary_, {})),
        fd_(std::move(other.fd_)) {}
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Write(std::string_view text) { return Write(std::as_bytes(std::span(text))); }
  absl::Status Commit();

 private:
  AtomicFile(std::filesystem::path path, std::string temporary, FileDescriptor fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

  std::filesystem::path path_;
  std::string temporary_;  // empty: nothing to remove
  FileDescriptor fd_;
};

// Replaces `path` by `content`, as AtomicFile does.
absl::Status WriteFileAtomic(const std::filesystem::path& path, std::string_view content,
                             mode_t mode = 0644);

// Makes the entries of a folder durable.
absl::Status SyncDirectory(const std::filesystem::path& directory);

absl::Status CreateDirectories(const std::filesystem::path& directory);

}  // namespace albef

#endif  // ALBEF_COMMON_FILE_H_
