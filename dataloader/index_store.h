// Where the indices of annotation files and shards lie, and who makes them.
//
// 1. An index lies beside what it indexes, as FILE.albef-index; with `directory` it lies there, and
//    where the folder of FILE cannot be written, in `fallback_directory`. In these folders its name
//    also holds a hash of FILE's absolute path, for there may be two train.json.
// 2. It is used only for the version of FILE that it was made from (FileIdentity), and only when
// all
//    its checksums hold. Otherwise it is made anew and replaced by rename; who has the old one
//    mapped keeps it.
// 3. One process makes it, holding a lock on INDEX.lock; the others wait and then use what it made.
//    The lock ends with its process. Storage without locks costs double work, never a wrong index.
// 4. A reader needs no write access where a usable index lies there already.
#ifndef ALBEF_DATALOADER_INDEX_STORE_H_
#define ALBEF_DATALOADER_INDEX_STORE_H_

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "dataloader/sample_index.h"

namespace albef {

struct IndexOptions {
  std::optional<std::filesystem::path> directory = {};           // config key data.index_dir
  std::optional<std::filesystem::path> fallback_directory = {};  // absent: no fallback
  bool rebuild = false;  // make it anew, whatever lies there
  int num_threads = 1;   // of many files, how many are opened or indexed at a time
  // Once for each event that an operator may want to know: being made, waited for, replaced. From
  // any of the threads.
  std::function<void(std::string_view)> notify = {};
  // How long to wait for another process that makes the same index.
  std::chrono::milliseconds lock_limit = std::chrono::hours(2);
};

struct OpenedIndex {
  SampleIndex index;
  std::filesystem::path path;
  bool built = false;  // just now, by this call
};

// Opens the index of an annotation file or shard, and makes it first where there is none to use.
// Errors of FILE's content are those of ReadAnnotations and ReadShard; PERMISSION_DENIED where no
// index may be written. Safe to call from any thread.
absl::StatusOr<OpenedIndex> OpenIndex(const std::filesystem::path& file,
                                      const IndexOptions& options);

}  // namespace albef

#endif  // ALBEF_DATALOADER_INDEX_STORE_H_
