#include "checkpoint/loaded_checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "checkpoint/parallel_for.h"
#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

namespace {

// The full-size model with its optimizer needs 1 MB in one shard.
constexpr off_t kMaxManifestBytes = off_t{256} << 20;
constexpr size_t kReadBytes = size_t{1} << 20;

absl::Status Damaged(const fs::path& path, std::string_view what) {
  return absl::DataLossError(fmt::format("{}: {}", path.string(), what));
}

absl::StatusOr<FileDescriptor> OpenForReading(const fs::path& path, struct stat& info) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) return Damaged(path, "is missing");
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) return Damaged(path, "is not a regular file");
  return fd;
}

// By read() rather than through the map, where an error of storage would be a signal.
absl::Status VerifyFile(const fs::path& path, const ManifestFile& expected) {
  struct stat info;
  ASSIGN_OR_RETURN(const FileDescriptor fd, OpenForReading(path, info));
  if (static_cast<uint64_t>(info.st_size) != expected.num_bytes) {
    return Damaged(
        path, fmt::format("has {} bytes, the manifest says {}", info.st_size, expected.num_bytes));
  }
  StreamHash hash;
  std::vector<std::byte> buffer(kReadBytes);
  while (true) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read", path);
    if (count == 0) break;
    hash.Update(std::span(buffer).first(static_cast<size_t>(count)));
  }
  if (const Hash128 found = hash.Finish(); found != expected.hash) {
    return Damaged(path, fmt::format("content has XXH3-128 {}, the manifest says {}", ToHex(found),
                                     ToHex(expected.hash)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Manifest> ReadManifest(const fs::path& directory) {
  struct stat info;
  if (::stat(directory.c_str(), &info) != 0) return ErrnoStatus(errno, "open", directory);
  if (!S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(
        fmt::format("{}: not a folder; a checkpoint is a folder step-<n>", directory.string()));
  }
  const fs::path path = directory / kManifestName;
  {
    ASSIGN_OR_RETURN(const FileDescriptor fd, OpenForReading(path, info));
    if (info.st_size > kMaxManifestBytes) {
      return Damaged(path, fmt::format("{} bytes are too many for a manifest", info.st_size));
    }
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  absl::StatusOr<Manifest> manifest = ParseManifest(text, path.string());
  if (absl::IsInvalidArgument(manifest.status())) {
    return absl::DataLossError(manifest.status().message());
  }
  return manifest;
}

LoadedCheckpoint::LoadedCheckpoint(fs::path directory, Manifest manifest,
                                   std::vector<MappedFile> files)
    : directory_(std::move(directory)), manifest_(std::move(manifest)), files_(std::move(files)) {
  for (size_t i = 0; i < manifest_.tensors.size(); ++i) {
    index_.emplace(manifest_.tensors[i].info.name, i);
  }
}

absl::StatusOr<LoadedCheckpoint> LoadedCheckpoint::Open(const fs::path& directory,
                                                        int num_threads) {
  ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(directory));
  std::vector<absl::Status> verified(manifest.files.size());
  ParallelFor(verified.size(), num_threads, [&](size_t i) {
    verified[i] = VerifyFile(directory / manifest.files[i].name, manifest.files[i]);
  });
  for (const absl::Status& status : verified) RETURN_IF_ERROR(status);

  std::vector<MappedFile> files;
  for (const ManifestFile& file : manifest.files) {
    ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(directory / file.name));
    // The ranges of the manifest are about to become pointers into the map.
    if (mapped.bytes().size() != file.num_bytes) {
      return Damaged(directory / file.name, "changes while it is being read");
    }
    files.push_back(std::move(mapped));
  }
  LoadedCheckpoint loaded(directory, std::move(manifest), std::move(files));

  std::vector<TensorInfo> tensors;
  std::vector<std::span<const std::byte>> pieces;
  for (const ManifestTensor& tensor : loaded.manifest_.tensors) {
    tensors.push_back(tensor.info);
    std::ranges::copy(loaded.PiecesOf(tensor), std::back_inserter(pieces));
  }
  ASSIGN_OR_RETURN(const Hash128 digest, StateDigest(tensors, HashBlocks(pieces, num_threads)));
  if (digest != loaded.manifest_.state_digest) {
    return Damaged(directory / kManifestName,
                   fmt::format("state_digest is {}, that of the tensors {}",
                               ToHex(loaded.manifest_.state_digest), ToHex(digest)));
  }
  return loaded;
}

absl::StatusOr<const ManifestTensor*> LoadedCheckpoint::FindTensor(std::string_view key) const {
  const auto found = index_.find(key);
  if (found == index_.end()) {
    return absl::NotFoundError(fmt::format("{}: no tensor {}", directory_.string(), key));
  }
  return &manifest_.tensors[found->second];
}

std::vector<std::span<const std::byte>> LoadedCheckpoint::PiecesOf(
    const ManifestTensor& tensor) const {
  std::vector<std::span<const std::byte>> pieces;
  for (const TensorPart& part : tensor.parts) {
    pieces.push_back(
        files_[part.file_index].bytes().subspan(part.file_begin, part.end - part.begin));
  }
  return pieces;
}

absl::StatusOr<TensorInfo> LoadedCheckpoint::Find(std::string_view key) const {
  ASSIGN_OR_RETURN(const ManifestTensor* tensor, FindTensor(key));
  return tensor->info;
}

absl::StatusOr<std::vector<std::span<const std::byte>>> LoadedCheckpoint::Pieces(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const ManifestTensor* tensor, FindTensor(key));
  return PiecesOf(*tensor);
}

absl::Status LoadedCheckpoint::CopyTensor(std::string_view key,
                                          std::span<std::byte> destination) const {
  ASSIGN_OR_RETURN(const ManifestTensor* tensor, FindTensor(key));
  const size_t num_bytes = tensor->parts.back().end;
  if (destination.size() != num_bytes) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor {} has {} bytes, its destination {}",
                                                  directory_.string(), key, num_bytes,
                                                  destination.size()));
  }
  for (const std::span<const std::byte> piece : PiecesOf(*tensor)) {
    if (!piece.empty()) std::memcpy(destination.data(), piece.data(), piece.size());
    destination = destination.subspan(piece.size());
  }
  return absl::OkStatus();
}

}  // namespace albef
