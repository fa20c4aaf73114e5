// Zip archives of stored entries, as torch.save writes them: a reader over memory and a writer that
// streams to a file.
//
// Archives are hostile input. Refused with INVALID_ARGUMENT naming file and entry: anything
// truncated, entries that overlap or share a name, headers that contradict each other, compressed
// or encrypted entries (so no archive is larger inside than outside), bytes that do not match their
// CRC-32. ZIP64 is supported by both.
#ifndef ALBEF_FORMATS_ZIP_H_
#define ALBEF_FORMATS_ZIP_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

// Immutable; safe to read from any thread.
class ZipReader {
 public:
  struct Entry {
    std::span<const std::byte> bytes;  // not yet checked against the CRC
    uint32_t crc = 0;
  };

  // True if `bytes` begin as a zip archive does.
  static bool LooksLikeZip(std::span<const std::byte> bytes);

  // `bytes` must outlive the reader. `name` is what errors call the file.
  static absl::StatusOr<ZipReader> Parse(std::span<const std::byte> bytes, std::string name);

  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  // The bytes of an entry, after checking their CRC. NOT_FOUND names file and entry.
  absl::StatusOr<std::span<const std::byte>> Read(std::string_view entry) const;

 private:
  explicit ZipReader(std::string name) : name_(std::move(name)) {}

  std::string name_;
  std::map<std::string, Entry, std::less<>> entries_;
};

// Writes an archive whose entries begin at multiples of 64 bytes, so that a reader can map them.
// Not thread-safe. Without Commit nothing is left behind.
class ZipWriter {
 public:
  struct Options {
    // From this size or offset on ZIP64 fields are used; smaller only in tests.
    uint64_t zip64_threshold = 0xffffffff;
  };

  static absl::StatusOr<ZipWriter> Create(const std::filesystem::path& path, Options options);
  static absl::StatusOr<ZipWriter> Create(const std::filesystem::path& path) {
    return Create(path, Options());
  }

  absl::Status Add(std::string_view entry, std::span<const std::byte> bytes);
  absl::Status Commit();

 private:
  ZipWriter(std::filesystem::path path, AtomicFile file, Options options)
      : path_(std::move(path)), file_(std::move(file)), options_(options) {}

  absl::Status Write(std::string_view bytes);

  std::filesystem::path path_;
  AtomicFile file_;
  Options options_;
  uint64_t offset_ = 0;
  uint64_t num_entries_ = 0;
  std::string directory_;  // central directory so far
  std::set<std::string, std::less<>> names_;
};

}  // namespace albef

#endif  // ALBEF_FORMATS_ZIP_H_
