// The members of a tar archive in order, without unpacking: names, and where their bytes lie.
//
// Reads what tar, Python's tarfile, WebDataset and img2dataset write: ustar, GNU (long names, sizes
// in base 256, old sparse members) and pax (path and size of a member; what a global header says of
// them is ignored). The archive is hostile input: every number is checked before it is used.
#ifndef ALBEF_DATALOADER_TAR_READER_H_
#define ALBEF_DATALOADER_TAR_READER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

// Reads in pieces of a megabyte, so that storage far away is asked seldom, and passes over what is
// longer. Not thread-safe.
class TarReader {
 public:
  // Of the `size` bytes of `file`, which must outlive the reader. `path` is for messages.
  TarReader(const FileDescriptor& file, std::filesystem::path path, uint64_t size);

  struct Member {
    std::string name;
    uint64_t offset = 0;  // of its bytes in the archive
    uint64_t size = 0;
    bool is_file = false;  // false: a folder, link, device, sparse file, …
  };
  // The next member into `member`; false at the end. INVALID_ARGUMENT with the byte offset for what
  // is no tar archive or damaged; other codes for trouble of storage.
  absl::StatusOr<bool> Next(Member& member);

  // Whether the archive ended without its end mark, or within a member (which is left out). Means
  // something once Next has said false.
  bool is_cut_short() const { return is_cut_short_; }

  // The bytes of a member of at most kMaxTextBytes, until the next call of any function.
  static constexpr uint64_t kMaxTextBytes = 1 << 20;
  absl::StatusOr<std::string_view> Read(const Member& member);

 private:
  struct Extension;

  absl::Status Damaged(uint64_t offset, std::string_view what) const;
  absl::Status ReadPax(std::string_view records, uint64_t offset, Extension& extension) const;
  // Up to `count` bytes at `offset`, fewer where the archive ends.
  absl::StatusOr<std::string_view> View(uint64_t offset, uint64_t count);

  const FileDescriptor& file_;
  const std::filesystem::path path_;
  const uint64_t size_;
  uint64_t next_header_ = 0;
  bool is_cut_short_ = false;
  std::string window_;  // of the archive, from window_begin_ on
  uint64_t window_begin_ = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_TAR_READER_H_
