// One training sample: caption to tokens, image to pixels, with a substitute where content is bad.
#ifndef ALBEF_DATALOADER_SAMPLE_READER_H_
#define ALBEF_DATALOADER_SAMPLE_READER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "dataloader/bad_sample.h"
#include "dataloader/image_loader.h"
#include "dataloader/sample_order.h"
#include "dataloader/sample_source.h"
#include "dataloader/wordpiece.h"

namespace albef {

// What is read for a place is a function of (seed, place, data) alone: the caption (one of the
// list, uniformly), the augmentation and the substitutes are drawn from streams keyed by sample
// position.
//
// Bad content is an image as ImageLoader defines it (what cannot be read as well as decoded), and a
// caption that is not UTF-8 or has no token (the authors' code trains on an empty caption as a lone
// [CLS]). Trouble of the machine is retried and then an error that names the path; it never
// substitutes.
//
// Immutable; any thread may call Read.
class SampleReader {
 public:
  struct Options {
    std::shared_ptr<const SampleSource> source;
    std::shared_ptr<const WordPieceTokenizer> tokenizer;
    std::shared_ptr<const ImageLoader> image_loader;
    uint64_t seed = 0;
    int max_words = 30;
    int max_text_length = 25;  // tokens, [CLS] included
    // The pauses before loading an image again that failed for no fault of its content.
    std::vector<std::chrono::milliseconds> retry_delays = {
        std::chrono::milliseconds(100), std::chrono::milliseconds(400),
        std::chrono::milliseconds(1600), std::chrono::milliseconds(6400)};
  };

  explicit SampleReader(Options options) : options_(std::move(options)) {}

  struct Result {
    int64_t sample_index = 0;            // of what was read
    std::vector<int64_t> input_ids;      // not padded
    std::vector<BadSample> bad_samples;  // what was tried before it
  };
  // What `result` held is replaced; its memory is reused. `pause` waits for a delay; false means
  // give up (CANCELLED).
  absl::Status Read(const EpochPlan::Place& place, std::span<uint8_t> image_HWC,
                    absl::FunctionRef<bool(std::chrono::milliseconds)> pause, Result& result) const;

 private:
  struct Fault;

  int64_t SampleIndex(const EpochPlan::Place& place, uint32_t attempt) const;
  Fault ReadCaption(const Sample& sample, const EpochPlan::Place& place, uint32_t attempt,
                    std::vector<int64_t>& input_ids) const;
  absl::StatusOr<Fault> LoadImage(const Sample& sample, RandomStream random,
                                  std::span<uint8_t> image_HWC,
                                  absl::FunctionRef<bool(std::chrono::milliseconds)> pause) const;

  Options options_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_SAMPLE_READER_H_
