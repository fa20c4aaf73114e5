// The samples of one annotation file or shard in a compact binary file that is mapped, not read:
// any number of workers share its pages, and finding a sample takes a few memory accesses.
//
//   magic, version                                          12 bytes
//   blocks of 1024 samples:  u32 begin[n]                   of each record, from the block's start
//                            record[n]
//   directory:               {u64 offset, u64 XXH3} of each block
//   trailer:                 identity of the indexed file, counts, offset and XXH3 of the
//   directory,
//                            its own XXH3, magic             80 bytes
//   record:  image, place, captions to the record's end     text is a length and its bytes
//   place:   0 for a file of its own, else 1 + offset, size in the indexed file
//
// Numbers are little-endian; lengths and places are in groups of seven bits, low ones first. A
// sample costs its text and about eight bytes.
#ifndef ALBEF_DATALOADER_SAMPLE_INDEX_H_
#define ALBEF_DATALOADER_SAMPLE_INDEX_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "dataloader/file_identity.h"
#include "dataloader/sample_source.h"

namespace albef {

// Writes an index in flat memory: one block and 16 bytes for each block before. Nothing exists
// under its path before Finish. Not thread-safe.
class SampleIndexWriter {
 public:
  static absl::StatusOr<SampleIndexWriter> Create(const std::filesystem::path& path);

  // `image` is a path or, with a place, the name of a member.
  struct Place {
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  absl::Status Add(std::string_view image, std::optional<Place> place,
                   std::span<const std::string> captions);

  // Syncs and renames.
  absl::Status Finish(const FileIdentity& indexed);

 private:
  struct BlockEntry {
    uint64_t offset;
    uint64_t hash;
  };

  explicit SampleIndexWriter(AtomicFile file) : file_(std::move(file)) {}

  absl::Status Write(std::string_view bytes);
  absl::Status EndBlock();

  AtomicFile file_;
  uint64_t num_samples_ = 0;
  uint64_t written_ = 0;
  std::vector<uint32_t> record_begin_;  // of the block under way, from its first record
  std::string records_;
  std::string block_;  // scratch
  std::vector<BlockEntry> directory_;
};

// Immutable; safe to read from any thread. Every access is checked, so that not even a file made to
// deceive the checksums can do more than show wrong samples.
class SampleIndex {
 public:
  // Maps the file and compares all checksums once. DATA_LOSS says what is damaged; NOT_FOUND and
  // other codes as in common/file.h.
  static absl::StatusOr<SampleIndex> Open(const std::filesystem::path& path);

  const FileIdentity& indexed() const { return indexed_; }
  int64_t size() const { return static_cast<int64_t>(num_samples_); }
  uint64_t num_bytes() const { return file_.text().size(); }

  // What was added; `index` in [0, size). Views are into the index. True: `place` is set.
  struct Record {
    std::string_view image;
    std::optional<SampleIndexWriter::Place> place;
    std::string_view captions;  // for NextCaption
  };
  Record Get(int64_t index) const;
  // Takes the first caption off `captions`; false when there is none.
  static bool NextCaption(std::string_view& captions, std::string_view& caption);

 private:
  explicit SampleIndex(MappedFile file) : file_(std::move(file)) {}

  absl::Status ReadTrailer();
  absl::Status CheckBlocks() const;
  std::string_view Block(uint64_t block) const;

  MappedFile file_;
  FileIdentity indexed_;
  uint64_t num_samples_ = 0;
  uint64_t num_blocks_ = 0;
  uint64_t directory_offset_ = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_SAMPLE_INDEX_H_
