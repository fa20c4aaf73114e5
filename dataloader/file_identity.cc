#include "dataloader/file_identity.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "common/status_macros.h"

namespace albef {
namespace {

constexpr uint64_t kHashedBytes = 64 << 10;  // at either end

}  // namespace

absl::StatusOr<FileIdentity> IdentifyFile(const FileDescriptor& file,
                                          const std::filesystem::path& path) {
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  FileIdentity identity;
  identity.size = static_cast<uint64_t>(info.st_size);
  identity.mtime_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  const uint64_t head_bytes = std::min(identity.size, kHashedBytes);
  const uint64_t tail_bytes = std::min(identity.size - head_bytes, kHashedBytes);
  std::string ends, part;
  for (const auto& [offset, size] :
       {std::pair(uint64_t{0}, head_bytes), std::pair(identity.size - tail_bytes, tail_bytes)}) {
    RETURN_IF_ERROR(ReadRange(file, offset, size, path, part));
    ends += part;
  }
  const XXH128_hash_t hash = XXH3_128bits(ends.data(), ends.size());
  identity.hash_low = hash.low64;
  identity.hash_high = hash.high64;
  return identity;
}

}  // namespace albef
