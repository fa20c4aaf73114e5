#include "dataloader/index_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "dataloader/annotations.h"
#include "dataloader/shard.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

using Notify = std::function<void(std::string_view)>;

constexpr std::string_view kSuffix = ".albef-index";

// ---- The lock -----------------------------------------------------------------------------------

// The right to make one index, for as long as it lives. The file is removed at the end.
class IndexLock {
 public:
  // DEADLINE_EXCEEDED when somebody else has it for longer than `limit`; `on_wait` is called once
  // when there is waiting to do.
  static absl::StatusOr<IndexLock> Acquire(const fs::path& path, std::chrono::milliseconds limit,
                                           const std::function<void()>& on_wait);
  IndexLock(IndexLock&&) = default;
  IndexLock& operator=(IndexLock&&) = delete;
  ~IndexLock() {
    if (fd_.valid() && exclusive_) ::unlink(path_.c_str());
  }

  // False on storage without locks.
  bool exclusive() const { return exclusive_; }

 private:
  IndexLock(fs::path path, FileDescriptor fd, bool exclusive)
      : path_(std::move(path)), fd_(std::move(fd)), exclusive_(exclusive) {}

  fs::path path_;
  FileDescriptor fd_;
  bool exclusive_;
};

// The one who had the lock before may have removed the file that `fd` is.
bool IsStillThere(const FileDescriptor& fd, const fs::path& path) {
  struct stat mine, there;
  return ::fstat(fd.get(), &mine) == 0 && ::stat(path.c_str(), &there) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

absl::StatusOr<IndexLock> IndexLock::Acquire(const fs::path& path, std::chrono::milliseconds limit,
                                             const std::function<void()>& on_wait) {
  constexpr std::chrono::milliseconds kPollInterval(100);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  bool waited = false;
  while (true) {
    FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd.valid()) return ErrnoStatus(errno, "open", path);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      if (IsStillThere(fd, path)) return IndexLock(path, std::move(fd), true);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return IndexLock(path, std::move(fd), false);
    if (!waited) on_wait();
    waited = true;
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          fmt::format("{}: another process has held this lock for {} s; see what it does, or build "
                      "the index ahead with: albef data index",
                      path.string(), std::chrono::duration<double>(limit).count()));
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

// ---- Making an index ----------------------------------------------------------------------------

// What builders that were killed have left. Only for who has the lock.
void RemoveLeftovers(const fs::path& index) {
  const std::string prefix = index.filename().string() + ".";
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(index.parent_path(), ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(prefix) && name != prefix + "lock") leftovers.push_back(entry.path());
  }
  for (const fs::path& leftover : leftovers) fs::remove(leftover, ignored);
}

absl::Status AddSamples(const FileDescriptor& descriptor, const fs::path& file, uint64_t size,
                        const Notify& notify, SampleIndexWriter& writer) {
  if (!IsShard(file)) {
    return ReadAnnotations(descriptor, file,
                           [&](const std::string& image, std::span<const std::string> captions) {
                             return writer.Add(image, std::nullopt, captions);
                           });
  }
  ASSIGN_OR_RETURN(
      const ShardSummary summary,
      ReadShard(descriptor, file, size,
                [&](const ArchiveMember& image, std::span<const std::string> captions) {
                  return writer.Add(image.name, {{.offset = image.offset, .size = image.size}},
                                    captions);
                }));
  if (summary.is_cut_short) {
    notify(fmt::format("{}: the shard is cut short; the {} samples before are used", file.string(),
                       summary.num_samples));
  }
  return absl::OkStatus();
}

absl::Status Build(const fs::path& file, const fs::path& index, const Notify& notify) {
  ASSIGN_OR_RETURN(const FileDescriptor descriptor, OpenRegularFile(file));
  ASSIGN_OR_RETURN(const FileIdentity before, IdentifyFile(descriptor, file));
  ASSIGN_OR_RETURN(SampleIndexWriter writer, SampleIndexWriter::Create(index));
  RETURN_IF_ERROR(AddSamples(descriptor, file, before.size, notify, writer));
  ASSIGN_OR_RETURN(const FileIdentity after, IdentifyFile(descriptor, file));
  if (!(before == after)) {
    return absl::UnavailableError(fmt::format(
        "{}: changed while it was being indexed; start again when it is complete", file.string()));
  }
  return writer.Finish(after);
}

// ---- Finding an index ---------------------------------------------------------------------------

fs::path NameInDirectory(const fs::path& directory, const fs::path& file) {
  const std::string absolute = fs::absolute(file).lexically_normal();
  return directory / fmt::format("{}.{:016x}{}", file.filename().string(),
                                 XXH3_64bits(absolute.data(), absolute.size()), kSuffix);
}

// Where the index may lie, the preferred place first.
std::vector<fs::path> Places(const fs::path& file, const IndexOptions& options) {
  if (options.directory) return {NameInDirectory(*options.directory, file)};
  std::vector<fs::path> places = {fs::absolute(file).string() + std::string(kSuffix)};
  if (options.fallback_directory) {
    places.push_back(NameInDirectory(*options.fallback_directory, file));
  }
  return places;
}

class Opener {
 public:
  Opener(const fs::path& file, const IndexOptions& options)
      : file_(file),
        options_(options),
        notify_(options.notify ? options.notify : [](std::string_view) {}) {}

  absl::StatusOr<OpenedIndex> Open() {
    ASSIGN_OR_RETURN(const FileDescriptor descriptor, OpenRegularFile(file_));
    ASSIGN_OR_RETURN(identity_, IdentifyFile(descriptor, file_));
    const std::vector<fs::path> places = Places(file_, options_);
    for (const fs::path& place : places) {
      if (auto index = Use(place)) return OpenedIndex{*std::move(index), place, false};
    }
    for (size_t i = 0;; ++i) {
      absl::StatusOr<OpenedIndex> opened = Make(places[i]);
      const bool elsewhere =
          absl::IsPermissionDenied(opened.status()) || absl::IsResourceExhausted(opened.status());
      if (!elsewhere) return opened;
      if (i + 1 == places.size()) {
        return absl::Status(opened.status().code(),
                            fmt::format("{}; data.index_dir names a folder for the index of {}",
                                        std::string(opened.status().message()), file_.string()));
      }
      notify_(fmt::format("{}; the index goes to {}", std::string(opened.status().message()),
                          places[i + 1].parent_path().string()));
    }
  }

 private:
  // The index at `place` where it can be used.
  std::optional<SampleIndex> Use(const fs::path& place) const {
    if (options_.rebuild) return std::nullopt;
    absl::StatusOr<SampleIndex> index = SampleIndex::Open(place);
    if (absl::IsNotFound(index.status())) return std::nullopt;
    if (!index.ok()) {
      notify_(fmt::format("{}; it is made anew", std::string(index.status().message())));
      return std::nullopt;
    }
    if (!(index->indexed() == identity_)) {
      notify_(fmt::format("{}: made from another version of {}; it is made anew", place.string(),
                          file_.string()));
      return std::nullopt;
    }
    return *std::move(index);
  }

  absl::StatusOr<OpenedIndex> Make(const fs::path& place) const {
    RETURN_IF_ERROR(CreateDirectories(place.parent_path()));
    ASSIGN_OR_RETURN(
        const IndexLock lock,
        IndexLock::Acquire(place.string() + ".lock", options_.lock_limit, [&] {
          notify_(fmt::format("{}: waiting for another process that makes it", place.string()));
        }));
    // While this process waited, or after it looked.
    if (auto index = Use(place)) return OpenedIndex{*std::move(index), place, false};
    if (lock.exclusive()) RemoveLeftovers(place);
    notify_(fmt::format("{}: being made from {} ({} bytes)", place.string(), file_.string(),
                        identity_.size));
    RETURN_IF_ERROR(Build(file_, place, notify_));
    ASSIGN_OR_RETURN(SampleIndex index, SampleIndex::Open(place));
    notify_(fmt::format("{}: made, {} samples in {} bytes", place.string(), index.size(),
                        index.num_bytes()));
    return OpenedIndex{std::move(index), place, true};
  }

  const fs::path& file_;
  const IndexOptions& options_;
  const Notify notify_;
  FileIdentity identity_;
};

}  // namespace

absl::StatusOr<OpenedIndex> OpenIndex(const fs::path& file, const IndexOptions& options) {
  return Opener(file, options).Open();
}

}  // namespace albef
