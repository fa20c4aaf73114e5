// How fast training batches come from storage, and how deep they must be read ahead where storage
// is slow.
//
//   data_stream_benchmark --root DIR --train-file FILE --vocab FILE
//       [--threads N…] [--prefetch N…] [--latency-ms MS…] [--step-ms MS] [--seconds S]
//
// One line for each combination of threads, prefetched batches and latency, which is added to every
// read of an image. With --step-ms a batch is held as long as a training step would hold it, and
// the share of time that the step then waits for data is what training would lose.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/dataset.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

// Storage that is far away: every read of an image takes `latency` more.
class FarSource : public SampleSource {
 public:
  FarSource(std::shared_ptr<const SampleSource> source, Milliseconds latency)
      : source_(std::move(source)), latency_(latency) {}
  int64_t size() const override { return source_->size(); }
  void Fetch(int64_t index, Sample& sample) const override { source_->Fetch(index, sample); }
  absl::Status ReadImage(const Sample& sample, std::string& bytes) const override {
    if (latency_ > Milliseconds::zero()) std::this_thread::sleep_for(latency_);
    return source_->ReadImage(sample, bytes);
  }

 private:
  std::shared_ptr<const SampleSource> source_;
  const Milliseconds latency_;
};

struct Arguments {
  RunConfig config;
  std::vector<int64_t> threads = {1, 2};
  std::vector<int64_t> prefetch = {2};
  std::vector<double> latency_ms = {0};
  double step_ms = 0;
  double seconds = 3;
};

absl::Status Measure(const Arguments& arguments, const Dataset& dataset, RunConfig config,
                     double latency_ms) {
  ASSIGN_OR_RETURN(const EpochPlan plan, PlanEpochs(config, dataset.train->size()));
  ASSIGN_OR_RETURN(const std::unique_ptr<BatchStream> stream,
                   OpenBatches(config, {.source = std::make_shared<FarSource>(
                                            dataset.train, Milliseconds(latency_ms)),
                                        .tokenizer = dataset.tokenizer,
                                        .plan = plan}));
  // What the threads had ready before the first step does not count.
  for (int64_t i = 0; i <= config.data.prefetch_batches; ++i) {
    RETURN_IF_ERROR(stream->Next().status());
  }
  const auto waited_before = stream->statistics().wait;
  const Clock::time_point start = Clock::now();
  int64_t pairs = 0;
  double seconds = 0;
  while (seconds < arguments.seconds) {
    {
      ASSIGN_OR_RETURN(const BatchStream::Handle batch, stream->Next());
      pairs += batch->batch_size;
      if (arguments.step_ms > 0) std::this_thread::sleep_for(Milliseconds(arguments.step_ms));
    }
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  }
  const double waited =
      std::chrono::duration<double>(stream->statistics().wait - waited_before).count();
  fmt::print(
      "threads {:3}  prefetch {:3}  latency {:5.1f} ms  {:7.0f} pairs/s  data wait {:4.1f} %\n",
      config.data.num_threads, config.data.prefetch_batches, latency_ms,
      static_cast<double>(pairs) / seconds, 100 * waited / seconds);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Run(Arguments& arguments) {
  RunConfig& config = arguments.config;
  config.data.max_bad_fraction = 1;
  ASSIGN_OR_RETURN(const Dataset dataset, Dataset::Load(config));
  for (const double latency_ms : arguments.latency_ms) {
    for (const int64_t prefetch : arguments.prefetch) {
      for (const int64_t threads : arguments.threads) {
        config.data.prefetch_batches = prefetch;
        config.data.num_threads = threads;
        RETURN_IF_ERROR(Measure(arguments, dataset, config, latency_ms));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  CLI::App app("Training batches from storage", "data_stream_benchmark");
  albef::Arguments arguments;
  std::string vocab;
  app.add_option("--root", arguments.config.data.root, "Where relative paths start")->required();
  app.add_option("--train-file", arguments.config.train_file, "JSON files or shards")->required();
  app.add_option("--vocab", vocab, "vocab.txt")->required();
  app.add_option("--batch", arguments.config.batch_size, "Pairs of a batch");
  app.add_option("--image-res", arguments.config.image_res, "Pixels");
  app.add_option("--threads", arguments.threads, "That read and decode");
  app.add_option("--prefetch", arguments.prefetch, "Batches read, ready or in use");
  app.add_option("--latency-ms", arguments.latency_ms, "Added to each read of an image");
  app.add_option("--step-ms", arguments.step_ms, "How long a batch is held");
  app.add_option("--seconds", arguments.seconds, "For each line");
  CLI11_PARSE(app, argc, argv);
  arguments.config.tokenizer.vocab = vocab;
  const absl::Status status = albef::Run(arguments);
  if (!status.ok()) fmt::print(stderr, "{}\n", std::string(status.message()));
  return status.ok() ? 0 : 1;
}
