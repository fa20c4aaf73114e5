#include "coordinator/ledger_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "common/file.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "ledger-";
constexpr std::string_view kSuffix = ".sqlite";

fs::path JournalOf(const fs::path& path) { return path.string() + "-journal"; }

std::optional<int64_t> TermOf(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(std::min(kSuffix.size(), name.size()));
  int64_t term = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), term);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return term;
}

absl::StatusOr<std::map<int64_t, fs::path>> ListLedgers(const fs::path& folder) {
  std::map<int64_t, fs::path> ledgers;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (const auto term = TermOf(entry->path().filename().string())) {
      ledgers[*term] = entry->path();
    }
  }
  if (error) return ErrnoStatus(error.value(), "list", folder);
  return ledgers;
}

struct Content {
  std::string database;
  std::string journal;

  bool operator==(const Content&) const = default;
};

absl::StatusOr<Content> ReadOnce(const fs::path& path) {
  Content content;
  ASSIGN_OR_RETURN(content.database, ReadFile(path));
  absl::StatusOr<std::string> journal = ReadFile(JournalOf(path));
  if (!journal.ok() && !absl::IsNotFound(journal.status())) return journal.status();
  if (journal.ok()) content.journal = *std::move(journal);
  return content;
}

absl::StatusOr<Content> ReadUnchanging(const fs::path& path) {
  constexpr int kMaxTries = 100;
  ASSIGN_OR_RETURN(Content content, ReadOnce(path));
  for (int i = 0; i < kMaxTries; ++i) {
    ASSIGN_OR_RETURN(Content again, ReadOnce(path));
    if (again == content) return content;
    content = std::move(again);
  }
  return absl::UnavailableError(
      fmt::format("{}: changes all the time; another coordinator writes it", path.string()));
}

absl::Status WriteNew(const fs::path& path, std::string_view content) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  RETURN_IF_ERROR(WriteAll(fd.get(), std::as_bytes(std::span(content)), path));
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync", path);
  return fd.Close(path);
}

void Remove(const fs::path& path) {
  ::unlink(JournalOf(path).c_str());
  ::unlink(path.c_str());
}

}  // namespace

absl::StatusOr<fs::path> MakeLedgerFile(
    const fs::path& run_dir, int64_t term,
    const std::function<absl::Status(const fs::path&)>& prepare) {
  const fs::path folder = run_dir / "coordinator";
  const fs::path path = folder / fmt::format("{}{}{}", kPrefix, term, kSuffix);
  const fs::path building = path.string() + ".new";
  ASSIGN_OR_RETURN(const auto ledgers, ListLedgers(folder));
  Remove(building);
  const auto newer = ledgers.lower_bound(term);
  if (newer != ledgers.begin()) {
    const fs::path& before = std::prev(newer)->second;
    ASSIGN_OR_RETURN(const Content content, ReadUnchanging(before));
    RETURN_IF_ERROR(WriteNew(JournalOf(building), content.journal));
    RETURN_IF_ERROR(WriteNew(building, content.database));
  }
  absl::Status status = prepare(building);
  if (absl::IsDataLoss(status)) {
    const fs::path aside = path.string() + ".damaged";
    spdlog::error("ledger damaged, beginning a new one path={} reason={}", LogValue(aside.string()),
                  LogValue(std::string(status.message())));
    std::error_code error;
    fs::rename(building, aside, error);
    Remove(building);
    status = prepare(building);
  }
  RETURN_IF_ERROR(status);
  std::error_code error;
  fs::rename(building, path, error);
  if (error) return ErrnoStatus(error.value(), "rename", building);
  ::unlink(JournalOf(building).c_str());
  RETURN_IF_ERROR(SyncDirectory(folder));
  for (const auto& [other, other_path] : ledgers) {
    if (other < term) Remove(other_path);
  }
  return path;
}

}  // namespace albef
