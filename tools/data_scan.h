// What a dataset holds and what is wrong with it, found by reading all of it.
#ifndef ALBEF_TOOLS_DATA_SCAN_H_
#define ALBEF_TOOLS_DATA_SCAN_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "dataloader/image.h"
#include "dataloader/sample_source.h"
#include "dataloader/wordpiece.h"

namespace albef {

struct DataScanOptions {
  std::optional<int64_t> limit;  // of samples, from the first; unset: all
  int num_threads = 1;           // that decode images
  int max_words = 30;
  int max_text_length = 25;  // tokens, [CLS] included
  ImageCompat compat = ImageCompat::kCorrected;
  size_t max_examples = 5;
};

// Reasons are those of the batch stream: missing_image, damaged_image, invalid_image,
// empty_caption, invalid_utf8.
struct DataFault {
  int64_t sample_index = 0;
  std::string image;
  std::string reason;
  std::string detail;
};

// Counts of values, for their mean and percentiles.
class Histogram {
 public:
  void Add(int64_t value) {
    ++counts_[value];
    ++total_;
  }
  int64_t total() const { return total_; }
  double Mean() const;
  // The smallest value that at least this share of all values does not exceed; 0 when empty.
  int64_t Percentile(double share) const;

 private:
  std::map<int64_t, int64_t> counts_;
  int64_t total_ = 0;
};

struct DataScan {
  int64_t num_samples = 0;
  int64_t num_images = 0;  // different paths
  int64_t num_bad_images = 0;
  int64_t num_captions = 0;
  int64_t num_bad_captions = 0;
  std::map<std::string, int64_t> faults;  // images and captions, by reason
  std::vector<DataFault> examples;        // the first ones
  // Expected share of samples that training would replace: it draws one of a sample's captions.
  double bad_fraction = 0;

  Histogram caption_tokens;  // of usable captions, [CLS] included, before anything is cut off
  int64_t num_truncated = 0;
  int64_t num_pieces = 0;  // tokens without [CLS]
  int64_t num_unknown = 0;
};

// Content is judged as training judges it. Trouble of the machine (no permission, no memory,
// failing storage) is an error that names the path.
absl::StatusOr<DataScan> ScanData(const SampleSource& source, const WordPieceTokenizer& tokenizer,
                                  const DataScanOptions& options);

}  // namespace albef

#endif  // ALBEF_TOOLS_DATA_SCAN_H_
