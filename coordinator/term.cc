#include "coordinator/term.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "common/file.h"
#include "common/log.h"
#include "common/resources.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "term-";

fs::path FolderOf(const fs::path& run_dir) { return run_dir / "coordinator"; }

std::optional<int64_t> ParseTerm(std::string_view name) {
  if (name.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  int64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 1) return std::nullopt;
  return number;
}

// Who has the term: for people. A full disk must not keep anybody from taking over.
absl::Status WriteHolder(const FileDescriptor& fd, const fs::path& path) {
  const nlohmann::ordered_json json = {{"pid", ::getpid()}, {"host", HostName()}};
  const std::string text = json.dump() + "\n";
  RETURN_IF_ERROR(WriteAll(fd.get(), std::as_bytes(std::span(text)), path));
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync", path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> HighestTerm(const fs::path& run_dir) {
  std::error_code error;
  int64_t highest = 0;
  fs::directory_iterator entry(FolderOf(run_dir), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    highest = std::max(highest, ParseTerm(entry->path().filename().string()).value_or(0));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::UnavailableError(
        fmt::format("{}: cannot list: {}", FolderOf(run_dir).string(), error.message()));
  }
  return highest;
}

absl::StatusOr<Term> Term::Claim(const fs::path& run_dir, int64_t number) {
  const fs::path folder = FolderOf(run_dir);
  const fs::path path = folder / fmt::format("{}{}", kPrefix, number);
  RETURN_IF_ERROR(CreateDirectories(folder));
  const FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) {
    if (errno != EEXIST) return ErrnoStatus(errno, "create", path);
    return absl::AlreadyExistsError(
        fmt::format("{}: another process has this term", path.string()));
  }
  if (const absl::Status status = WriteHolder(fd, path); !status.ok()) {
    spdlog::warn("term claimed without its holder's name reason={}",
                 LogValue(std::string(status.message())));
  }
  RETURN_IF_ERROR(SyncDirectory(folder));
  Term term(run_dir, number);
  const absl::Status current = term.CheckCurrent();
  if (absl::IsFailedPrecondition(current)) return absl::AlreadyExistsError(current.message());
  RETURN_IF_ERROR(current);
  return term;
}

absl::Status Term::CheckCurrent() const {
  ASSIGN_OR_RETURN(const int64_t highest, HighestTerm(run_dir_));
  if (highest > number_) {
    return absl::FailedPreconditionError(
        fmt::format("{}: term {} is over, another coordinator has term {}", run_dir_.string(),
                    number_, highest));
  }
  if (highest < number_) {
    return absl::UnavailableError(fmt::format(
        "{}: the file of term {} is gone; a coordinator whose term nobody can see changes nothing",
        FolderOf(run_dir_).string(), number_));
  }
  return absl::OkStatus();
}

}  // namespace albef
