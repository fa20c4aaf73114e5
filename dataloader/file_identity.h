// Which version of a file is this? The key by which an index belongs to what it was made from.
#ifndef ALBEF_DATALOADER_FILE_IDENTITY_H_
#define ALBEF_DATALOADER_FILE_IDENTITY_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

// Size, time of the last change, and a hash of the first and last 64 KiB. Size and time notice an
// edit; the hash notices another file under the same name whose time was set back (archives made
// reproducible, `cp -p`, a checkout). Device and inode are left out on purpose: they differ from
// node to node for one file on shared storage, and nodes would rebuild each other's index in turn.
// What none of them notices is a change in the middle by somebody who restores size and time.
struct FileIdentity {
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  uint64_t hash_low = 0;  // XXH3-128
  uint64_t hash_high = 0;

  bool operator==(const FileIdentity&) const = default;
};

// `path` is for messages.
absl::StatusOr<FileIdentity> IdentifyFile(const FileDescriptor& file,
                                          const std::filesystem::path& path);

}  // namespace albef

#endif  // ALBEF_DATALOADER_FILE_IDENTITY_H_
