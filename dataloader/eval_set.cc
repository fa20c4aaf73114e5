#include "dataloader/eval_set.h"

#include <fmt/format.h>

#include <unordered_map>
#include <utility>

#include "dataloader/caption.h"
#include "dataloader/utf8.h"

namespace albef {

absl::StatusOr<EvalSet> EvalSet::Create(const SampleSource& source,
                                        const WordPieceTokenizer& tokenizer,
                                        const Options& options) {
  EvalSet set;
  std::unordered_map<std::string, int64_t> image_index;
  std::vector<std::vector<int64_t>> ids;
  for (int64_t i = 0; i < source.size(); ++i) {
    const Sample sample = source.Get(i);
    std::string name = sample.ImageName();
    if (options.max_images == set.num_images() && !image_index.contains(name)) continue;
    const auto [image, is_new] = image_index.emplace(std::move(name), set.num_images());
    if (is_new) {
      set.image_paths.push_back(sample.image_path);
      set.texts_of_image.emplace_back();
    }
    for (const std::string& caption : sample.captions) {
      if (!IsValidUtf8(caption)) {
        return absl::InvalidArgumentError(
            fmt::format("{}: a caption of this evaluation image (sample {}) is not UTF-8; correct "
                        "the annotation file",
                        sample.ImageName(), i));
      }
      set.texts_of_image[static_cast<size_t>(image->second)].push_back(set.num_texts());
      set.image_of_text.push_back(image->second);
      set.texts.push_back(CleanCaption(caption, options.max_words));
      ids.push_back(tokenizer.Tokenize(set.texts.back(), {.max_length = options.text_length}));
    }
  }
  const std::vector<std::span<const int64_t>> rows(ids.begin(), ids.end());
  set.tokens = PadTokens(rows, tokenizer.vocabulary().pad_id(), options.text_length);
  return set;
}

}  // namespace albef
