// The pairs of a data set, addressed by index, however they are stored.
#ifndef ALBEF_DATALOADER_SAMPLE_SOURCE_H_
#define ALBEF_DATALOADER_SAMPLE_SOURCE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace albef {

struct Sample {
  std::filesystem::path image_path;
  // Bytes as stored: not cleaned, perhaps no UTF-8, perhaps none.
  std::vector<std::string> captions = {};
};

// Implementations are immutable; any thread may call them.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual int64_t size() const = 0;
  // `index` in [0, size).
  virtual Sample Get(int64_t index) const = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_SAMPLE_SOURCE_H_
