// Batches in order, read ahead by several threads.
#ifndef ALBEF_DATALOADER_BATCH_STREAM_H_
#define ALBEF_DATALOADER_BATCH_STREAM_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "dataloader/batch.h"
#include "dataloader/image_loader.h"
#include "dataloader/sample_order.h"
#include "dataloader/sample_source.h"
#include "dataloader/wordpiece.h"

namespace albef {

// A sample whose content could not be used, and what was read in its place.
struct BadSample {
  int64_t position = 0;      // sample position, counted on over all epochs
  int64_t sample_index = 0;  // in the source
  std::string image;
  // missing_image, damaged_image, invalid_image, empty_caption or invalid_utf8.
  std::string reason;
  std::string detail;
  int64_t substitute_index = 0;
  std::string substitute;  // its image
};

// One line for bad_samples.jsonl, without the newline.
std::string ToJsonLine(const BadSample& sample);

// The batches of the virtual ranks [virtual_rank_begin, virtual_rank_end), ordered by iteration,
// then virtual rank. A batch is a function of (seed, iteration, virtual rank, data) alone: neither
// the place where the stream was started nor the number of threads or the speed of the storage
// shows in it.
//
// A sample whose content is bad (image: see ImageLoader; caption: not UTF-8, or without a token) is
// replaced by another of the data set, drawn by its position. The authors' code trains on an empty
// caption as a lone [CLS]; here it is a bad sample. Trouble of the machine is retried
// (`retry_delays`) and then ends the stream with the path; it never substitutes.
//
// The threads start with Create and are joined by the destructor. Next is to be called from one
// thread; handles may be released from any, but all before the stream is destroyed.
class BatchStream {
 public:
  struct Options {
    std::shared_ptr<const SampleSource> source;
    std::shared_ptr<const WordPieceTokenizer> tokenizer;
    std::shared_ptr<const ImageLoader> image_loader;
    int image_res = 256;
    uint64_t seed = 0;

    std::optional<EpochPlan> plan;  // required
    int virtual_rank_begin = 0;
    int virtual_rank_end = 1;
    int64_t start_iteration = 0;
    std::optional<int64_t> end_iteration;  // exclusive; absent: without end

    int num_threads = 1;
    int prefetch_batches = 2;  // slots: batches being read, ready, or held by the caller

    int max_words = 30;
    int max_text_length = 25;  // tokens, [CLS] included
    double mlm_probability = 0.15;

    // The stream ends with an error when more than this share of the samples handed out was bad,
    // judged from 100 samples (or an epoch's, where that is fewer) on.
    double max_bad_fraction = 0.05;
    // Called by Next for each bad sample of the batch it is about to return, in order.
    std::function<void(const BadSample&)> on_bad_sample;
    // The pauses before loading an image again that failed for no fault of its content.
    std::vector<std::chrono::milliseconds> retry_delays = {
        std::chrono::milliseconds(100), std::chrono::milliseconds(400),
        std::chrono::milliseconds(1600), std::chrono::milliseconds(6400)};
  };

  struct Statistics {
    int64_t samples = 0;                         // handed out
    std::map<std::string, int64_t> bad_samples;  // by reason, among them
    std::chrono::nanoseconds wait{};             // time Next spent waiting, all together
  };

  // INVALID_ARGUMENT names the option that is missing or impossible.
  static absl::StatusOr<std::unique_ptr<BatchStream>> Create(Options options);
  ~BatchStream();

  // Frees the batch's slot for reading ahead.
  struct Release {
    BatchStream* stream;
    void operator()(const Batch* batch) const;
  };
  using Handle = std::unique_ptr<const Batch, Release>;

  // The next batch, waiting for it if need be. OUT_OF_RANGE at `end_iteration`; FAILED_PRECONDITION
  // while the caller holds all slots. Any other error ends the stream: it is returned for good, and
  // comes where the batch would have come, however far the threads were ahead.
  absl::StatusOr<Handle> Next();

  // For the thread that calls Next.
  const Statistics& statistics() const;

 private:
  class Pipeline;
  explicit BatchStream(std::unique_ptr<Pipeline> pipeline);

  std::unique_ptr<Pipeline> pipeline_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_BATCH_STREAM_H_
