// Images and texts of a retrieval evaluation.
#ifndef ALBEF_DATALOADER_EVAL_SET_H_
#define ALBEF_DATALOADER_EVAL_SET_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "dataloader/sample_source.h"
#include "dataloader/token_batch.h"
#include "dataloader/wordpiece.h"

namespace albef {

// Each image once, in the order of first appearance, and all captions in file order: rows that
// share an image path are one image with the captions of all. Texts are cleaned as captions, padded
// and cut to exactly `text_length` tokens (spec §4.2). A plain value.
struct EvalSet {
  struct Options {
    int max_words = 30;
    int text_length = 30;
    std::optional<int64_t> max_images;  // the first so many, with all of their captions
  };
  // INVALID_ARGUMENT for a caption that is not UTF-8: an evaluation substitutes nothing.
  static absl::StatusOr<EvalSet> Create(const SampleSource& source,
                                        const WordPieceTokenizer& tokenizer,
                                        const Options& options);

  int64_t num_images() const { return static_cast<int64_t>(image_paths.size()); }
  int64_t num_texts() const { return static_cast<int64_t>(texts.size()); }

  std::vector<std::filesystem::path> image_paths;
  std::vector<std::string> texts;                    // cleaned
  std::vector<int64_t> image_of_text;                // index into image_paths
  std::vector<std::vector<int64_t>> texts_of_image;  // ascending indices into texts; may be empty
  TokenBatch tokens;                                 // B = num_texts()
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_EVAL_SET_H_
