// WebDataset shards: tar archives whose members with equal names but for the suffix are one sample.
//
// As img2dataset writes them: KEY.jpg (or .jpeg, .png, .webp, .bmp, .gif), and KEY.txt, a caption,
// or KEY.json with a text or a list of texts under "caption"; the .txt counts where there are both.
// Suffixes begin at the first dot of the file's name, in small or capital letters. Members of one
// sample stand together; a suffix that comes again begins another sample of the same key. A sample
// has an image or a caption; without the other it is a bad sample, for whoever reads it. Of two
// images the first counts. Other members (links, folders, hidden files, __*__, other suffixes) are
// passed over.
#ifndef ALBEF_DATALOADER_SHARD_H_
#define ALBEF_DATALOADER_SHARD_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "dataloader/sample_source.h"

namespace albef {

// Whether a file is read as a shard: .tar. Compressed ones count too, to be refused as such.
bool IsShard(const std::filesystem::path& path);

struct ShardSummary {
  int64_t num_samples = 0;
  // The archive ends early. The sample it ends in is left out unless it has image and caption.
  bool is_cut_short = false;
};

// Reads the shard of `size` bytes from its beginning in flat memory, and hands over each sample's
// image and captions. Errors as TarReader and those of `visit`. `path` is for messages.
absl::StatusOr<ShardSummary> ReadShard(
    const FileDescriptor& file, const std::filesystem::path& path, uint64_t size,
    absl::FunctionRef<absl::Status(const ArchiveMember&, std::span<const std::string>)> visit);

}  // namespace albef

#endif  // ALBEF_DATALOADER_SHARD_H_
