// Samples whose content could not be used.
#ifndef ALBEF_DATALOADER_BAD_SAMPLE_H_
#define ALBEF_DATALOADER_BAD_SAMPLE_H_

#include <cstdint>
#include <string>

namespace albef {

// A bad sample and what was read in its place.
struct BadSample {
  int64_t position = 0;      // sample position, counted on over all epochs
  int64_t sample_index = 0;  // in the source
  std::string image = {};
  // missing_image, damaged_image, invalid_image, empty_caption or invalid_utf8.
  std::string reason = {};
  std::string detail = {};
  int64_t substitute_index = 0;
  std::string substitute = {};  // its image
};

// One JSON object without line breaks, for bad_samples.jsonl. Bytes that are no UTF-8 become
// U+FFFD.
std::string ToJson(const BadSample& sample);

}  // namespace albef

#endif  // ALBEF_DATALOADER_BAD_SAMPLE_H_
