#include "dataloader/sample_source.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {

std::string Sample::ImageName() const {
  return member ? fmt::format("{}/{}", image_path, member->name) : image_path;
}

absl::Status SampleSource::ReadImage(const Sample& sample, std::string& bytes) const {
  if (!sample.member) return ReadRegularFileInto(sample.image_path, kMaxImageFileBytes, bytes);
  if (sample.member->offset == 0) {
    return absl::NotFoundError(
        fmt::format("{}: the shard has no image for this key", sample.ImageName()));
  }
  if (sample.member->size > kMaxImageFileBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes, more than the {} allowed",
                                                  sample.ImageName(), sample.member->size,
                                                  kMaxImageFileBytes));
  }
  ASSIGN_OR_RETURN(const FileDescriptor archive, OpenRegularFile(sample.image_path));
  return ReadRange(archive, sample.member->offset, sample.member->size, sample.image_path, bytes);
}

}  // namespace albef
