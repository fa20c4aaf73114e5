// The pairs of a data set, addressed by index, however they are stored.
#ifndef ALBEF_DATALOADER_SAMPLE_SOURCE_H_
#define ALBEF_DATALOADER_SAMPLE_SOURCE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace albef {

// A file inside an archive: the bytes [offset, offset + size) of it. Offset 0, where no member's
// bytes can be: the sample lacks its image.
struct ArchiveMember {
  std::string name = {};
  uint64_t offset = 0;
  uint64_t size = 0;

  bool operator==(const ArchiveMember&) const = default;
};

struct Sample {
  std::string image_path;  // of the image, or of the archive that holds it
  // Bytes as stored: not cleaned, perhaps no UTF-8, perhaps none.
  std::vector<std::string> captions = {};
  std::optional<ArchiveMember> member = {};  // absent: the whole file is the image

  // For messages, and the same for equal images only: "a.jpg", "shard.tar/a.jpg".
  std::string ImageName() const;
};

// Implementations are immutable; any thread may call them.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual int64_t size() const = 0;
  // `index` in [0, size). What `sample` held is replaced; its memory is reused.
  virtual void Fetch(int64_t index, Sample& sample) const = 0;
  // The encoded image of a sample into `bytes`, whose memory is reused. The code of a failure says
  // whose fault it is, as in ImageLoader; the message names the file.
  virtual absl::Status ReadImage(const Sample& sample, std::string& bytes) const;

  Sample Get(int64_t index) const {
    Sample sample;
    Fetch(index, sample);
    return sample;
  }
};

// No picture within the pixel limit needs more; a film named .jpg must not fill the memory.
inline constexpr uint64_t kMaxImageFileBytes = uint64_t{1} << 30;

}  // namespace albef

#endif  // ALBEF_DATALOADER_SAMPLE_SOURCE_H_
