// albef data synth: a dataset that a small model can learn from, without downloads.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "dataloader/synthetic.h"
#include "tools/command.h"

namespace albef {
namespace {

struct Arguments {
  std::string output;
  std::string test_pairs;
  SyntheticOptions dataset;
};

// A count, or with a point in it a fraction of the training pairs.
absl::StatusOr<int64_t> ParseTestPairs(const std::string& text, int64_t train_pairs) {
  const char* end = text.data() + text.size();
  int64_t count = 0;
  if (const auto parsed = std::from_chars(text.data(), end, count);
      parsed.ec == std::errc() && parsed.ptr == end) {
    return count;
  }
  double fraction = 0;
  const auto parsed = std::from_chars(text.data(), end, fraction);
  if (parsed.ec != std::errc() || parsed.ptr != end || !(fraction > 0 && fraction < 1)) {
    return absl::InvalidArgumentError(fmt::format(
        "--test-pairs: expected a count, or a fraction between 0 and 1, not \"{}\"", text));
  }
  return std::llround(fraction * static_cast<double>(train_pairs));
}

ExitCode Run(Arguments arguments) {
  if (!arguments.test_pairs.empty()) {
    const absl::StatusOr<int64_t> test_pairs =
        ParseTestPairs(arguments.test_pairs, arguments.dataset.pairs);
    if (!test_pairs.ok()) return Report(test_pairs.status());
    arguments.dataset.test_pairs = *test_pairs;
  }
  const absl::StatusOr<SyntheticDataset> dataset =
      WriteSyntheticDataset(arguments.output, arguments.dataset);
  if (!dataset.ok()) return Report(dataset.status());
  fmt::print("{}: {}: {} training and {} test pairs, vocabulary of {}\n", arguments.output,
             dataset->already_there ? "already there, left as it is" : "written",
             dataset->train_pairs, dataset->test_pairs, dataset->vocabulary_size);
  return ExitCode::kDone;
}

}  // namespace

void AddDataSynth(CLI::App& parent, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  SyntheticOptions& dataset = arguments->dataset;
  CLI::App* synth = parent.add_subcommand(
      "synth",
      "Write a synthetic image-caption dataset: train.json, test.json, vocab.txt, images/");
  synth->add_option("--output", arguments->output, "Folder to write; new or empty")->required();
  synth->add_option("--pairs", dataset.pairs, "Training images, with five captions each")
      ->required();
  synth->add_option("--test-pairs", arguments->test_pairs,
                    "Test images, with one caption each: a count, or a fraction of --pairs such as "
                    "0.1 (default: a tenth, from 10 to 1000)");
  synth->add_option("--seed", dataset.seed, "The same seed gives the same bytes (default: 0)");
  synth->add_option("--size", dataset.size_px,
                    "Typical side of an image in pixels; sides vary (default: 128)");
  synth->add_option("--threads", dataset.threads, "Drawing threads (default: one per core)");
  synth->callback([arguments, &chosen] { chosen = [arguments] { return Run(*arguments); }; });
}

}  // namespace albef
