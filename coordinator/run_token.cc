#include "coordinator/run_token.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <span>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTokenBytes = 32;

fs::path PathIn(const fs::path& run_dir) { return run_dir / "secrets" / "token"; }

absl::StatusOr<std::string> NewToken() {
  std::array<unsigned char, kTokenBytes> bytes;
  if (::getentropy(bytes.data(), bytes.size()) != 0) {
    return ErrnoStatus(errno, "read", "the system's random numbers");
  }
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

// A file is there wholly or not at all, whoever is killed when: it is linked to its name when it
// is complete, and only the first can do that.
absl::Status PublishToken(const fs::path& path, const std::string& token) {
  std::string temporary = path.string() + ".XXXXXX";
  FileDescriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  const auto publish = [&]() -> absl::Status {
    RETURN_IF_ERROR(WriteAll(fd.get(), std::as_bytes(std::span(token)), path));
    if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync", path);
    if (::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, "link", path);
    }
    return absl::OkStatus();
  };
  const absl::Status status = publish();
  ::unlink(temporary.c_str());
  RETURN_IF_ERROR(status);
  return SyncDirectory(path.parent_path());
}

}  // namespace

absl::StatusOr<std::string> ReadRunToken(const fs::path& run_dir) {
  const fs::path path = PathIn(run_dir);
  ASSIGN_OR_RETURN(std::string token, ReadFile(path));
  while (!token.empty() && token.back() == '\n') token.pop_back();
  const bool is_token =
      token.size() == 2 * kTokenBytes && std::all_of(token.begin(), token.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
      });
  if (!is_token) {
    return absl::DataLossError(fmt::format(
        "{}: is no token of {} hexadecimal digits; stop the run, remove the file and start again",
        path.string(), 2 * kTokenBytes));
  }
  return token;
}

absl::StatusOr<std::string> EnsureRunToken(const fs::path& run_dir) {
  absl::StatusOr<std::string> present = ReadRunToken(run_dir);
  if (!absl::IsNotFound(present.status())) return present;
  const fs::path folder = PathIn(run_dir).parent_path();
  RETURN_IF_ERROR(CreateDirectories(run_dir));
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, "create folder", folder);
  }
  ASSIGN_OR_RETURN(const std::string token, NewToken());
  RETURN_IF_ERROR(PublishToken(PathIn(run_dir), token + "\n"));
  return ReadRunToken(run_dir);
}

std::string AuthorizationOf(std::string_view token) { return fmt::format("Bearer {}", token); }

}  // namespace albef
