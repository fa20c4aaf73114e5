// The samples of several annotation files one after the other, through their indices.
#ifndef ALBEF_DATALOADER_INDEXED_SAMPLES_H_
#define ALBEF_DATALOADER_INDEXED_SAMPLES_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "dataloader/index_store.h"
#include "dataloader/sample_source.h"

namespace albef {

// Takes a few hundred bytes of memory per file; all else is pages of the indices, which processes
// share and the system may drop. Immutable once open; safe to read from any thread.
class IndexedSamples : public SampleSource {
 public:
  // Relative image paths are relative to `root`. Errors are those of OpenIndex, for the first file
  // that has one; INVALID_ARGUMENT where the files hold no sample.
  static absl::StatusOr<IndexedSamples> Open(std::span<const std::filesystem::path> files,
                                             const std::filesystem::path& root,
                                             const IndexOptions& options = {});

  int64_t size() const override { return end_.back(); }
  void Fetch(int64_t index, Sample& sample) const override;

  struct File {
    std::filesystem::path path;
    OpenedIndex opened;
  };
  std::span<const File> files() const { return files_; }

 private:
  IndexedSamples() = default;

  std::vector<File> files_;
  std::vector<int64_t> end_;  // of each file's samples
  std::string root_;          // with a trailing '/', or empty
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_INDEXED_SAMPLES_H_
