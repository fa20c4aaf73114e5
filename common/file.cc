#include "common/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

absl::Status ErrnoStatus(int error, std::string_view operation, const fs::path& path) {
  const std::string message = fmt::format("{}: cannot {}: {}", path.string(), operation,
                                          std::generic_category().message(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(message);
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status FileDescriptor::Close(const fs::path& path) {
  if (::close(std::exchange(fd_, -1)) != 0) return ErrnoStatus(errno, "close", path);
  return absl::OkStatus();
}

absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path) {
  const auto refuse = [&] {
    return absl::InvalidArgumentError(fmt::format("{}: not a regular file", path));
  };
  // Not to wait for the other end where it is a pipe.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  // A socket, or a device that is not there.
  if (!file.valid() && errno == ENXIO) return refuse();
  if (!file.valid()) return ErrnoStatus(errno, "open", path);
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) return refuse();
  return file;
}

absl::StatusOr<MappedFile> MappedFile::Open(const fs::path& path) {
  ASSIGN_OR_RETURN(const FileDescriptor fd, OpenRegularFile(path.native()));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return MappedFile(nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, "map", path);
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (fs::temp_directory_path() / "albef-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::runtime_error(std::string(ErrnoStatus(errno, "create folder", name).message()));
  }
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::string content;
  RETURN_IF_ERROR(ReadFileInto(path, content.max_size(), content));
  return content;
}

namespace {

absl::Status ReadAll(const FileDescriptor& file, const std::string& path, size_t max_bytes,
                     std::string& content) {
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  // Files such as those in /proc report size 0; read until the end whatever stat says.
  size_t room = static_cast<size_t>(info.st_size) + 1;
  for (size_t used = 0; static_cast<uint64_t>(info.st_size) <= max_bytes && used <= max_bytes;) {
    content.resize(used + room);
    const ssize_t count = ::read(file.get(), content.data() + used, room);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read", path);
    used += static_cast<size_t>(count);
    if (count == 0) {
      content.resize(used);
      return absl::OkStatus();
    }
    room = 1 << 16;
  }
  return absl::InvalidArgumentError(
      fmt::format("{}: more than the {} bytes allowed", path, max_bytes));
}

}  // namespace

absl::Status ReadFileInto(const std::string& path, size_t max_bytes, std::string& content) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ErrnoStatus(errno, "open", path);
  return ReadAll(file, path, max_bytes, content);
}

absl::Status ReadRegularFileInto(const std::string& path, size_t max_bytes, std::string& content) {
  ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  return ReadAll(file, path, max_bytes, content);
}

absl::Status ReadRange(const FileDescriptor& file, uint64_t offset, size_t size,
                       const std::string& path, std::string& content) {
  content.resize(size);
  for (size_t used = 0; used < size;) {
    const ssize_t count =
        ::pread(file.get(), content.data() + used, size - used, static_cast<off_t>(offset + used));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read", path);
    if (count == 0) {
      return absl::DataLossError(
          fmt::format("{}: ends at byte {}, before byte {}", path, offset + used, offset + size));
    }
    used += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "write", path);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::StatusOr<AtomicFile> AtomicFile::Create(const fs::path& path, mode_t mode) {
  std::string temporary = path.string() + ".XXXXXX";
  FileDescriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  AtomicFile file(path, std::move(temporary), std::move(fd));
  // mkstemp makes the file private to its owner.
  if (::fchmod(file.fd_.get(), mode) != 0) return ErrnoStatus(errno, "chmod", path);
  return file;
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

absl::Status AtomicFile::Write(std::span<const std::byte> bytes) {
  return WriteAll(fd_.get(), bytes, path_);
}

absl::Status AtomicFile::Commit() {
  if (::fsync(fd_.get()) != 0) return ErrnoStatus(errno, "sync", path_);
  RETURN_IF_ERROR(fd_.Close(path_));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return ErrnoStatus(errno, "rename", path_);
  temporary_.clear();
  return SyncDirectory(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

absl::Status WriteFileAtomic(const fs::path& path, std::string_view content, mode_t mode) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path, mode));
  RETURN_IF_ERROR(file.Write(content));
  return file.Commit();
}

absl::Status SyncDirectory(const fs::path& directory) {
  FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "open", directory);
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync", directory);
  return absl::OkStatus();
}

absl::Status CreateDirectories(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return ErrnoStatus(error.value(), "create folder", directory);
  return absl::OkStatus();
}

}  // namespace albef
