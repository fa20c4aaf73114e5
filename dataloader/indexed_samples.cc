#include "dataloader/indexed_samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

std::string WithTrailingSlash(const fs::path& folder) {
  return folder.empty() ? "" : (folder / "").string();
}

// Opens, or makes first, the indices of all files. A failure does not stop the others: what they
// have made is there the next time.
std::vector<absl::StatusOr<OpenedIndex>> OpenAll(std::span<const fs::path> files,
                                                 const IndexOptions& options) {
  std::vector<absl::StatusOr<OpenedIndex>> opened(files.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) opened[i] = OpenIndex(files[i], options);
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < std::min(options.num_threads, static_cast<int>(files.size())); ++i) {
    others.emplace_back(work);
  }
  work();
  others.clear();  // joins
  return opened;
}

}  // namespace

absl::StatusOr<IndexedSamples> IndexedSamples::Open(std::span<const fs::path> files,
                                                    const fs::path& root,
                                                    const IndexOptions& options) {
  std::vector<absl::StatusOr<OpenedIndex>> opened = OpenAll(files, options);
  IndexedSamples samples;
  samples.root_ = WithTrailingSlash(root);
  int64_t end = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    RETURN_IF_ERROR(opened[i].status());
    samples.end_.push_back(end += opened[i]->index.size());
    samples.files_.push_back({files[i], *std::move(opened[i])});
  }
  if (end == 0) {
    return absl::InvalidArgumentError(
        files.empty() ? "no annotation file given"
                      : fmt::format("{}: no sample in it{}", files[0].string(),
                                    files.size() > 1 ? " nor in the files after it" : ""));
  }
  return samples;
}

void IndexedSamples::Fetch(int64_t index, Sample& sample) const {
  const auto file = static_cast<size_t>(std::ranges::upper_bound(end_, index) - end_.begin());
  const int64_t begin = file == 0 ? 0 : end_[file - 1];
  const SampleIndex::Record record = files_[file].opened.index.Get(index - begin);
  if (record.place) {
    sample.image_path = files_[file].path.native();
    if (!sample.member) sample.member.emplace();
    sample.member->name = record.image;
    sample.member->offset = record.place->offset;
    sample.member->size = record.place->size;
  } else {
    sample.image_path.clear();
    if (!record.image.starts_with('/')) sample.image_path = root_;
    sample.image_path += record.image;
    sample.member.reset();
  }
  size_t count = 0;
  std::string_view rest = record.captions;
  for (std::string_view caption; SampleIndex::NextCaption(rest, caption); ++count) {
    if (count == sample.captions.size()) sample.captions.emplace_back();
    sample.captions[count] = caption;
  }
  sample.captions.resize(count);
}

}  // namespace albef
