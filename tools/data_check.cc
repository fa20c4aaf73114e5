// albef data check: is a configuration's data fit for training, and how fast is it read?
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "dataloader/batch_stream.h"
#include "dataloader/dataset.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/wordpiece.h"
#include "tools/command.h"
#include "tools/data_scan.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Arguments {
  fs::path config;
  std::vector<std::string> overrides;
  std::optional<int64_t> limit;
  bool json = false;
};

struct Throughput {
  int64_t pairs = 0;
  double seconds = 0;

  double pairs_per_second() const { return seconds > 0 ? static_cast<double>(pairs) / seconds : 0; }
};

// One annotation list, and what was found in it.
struct CheckedSplit {
  std::string name;
  std::vector<fs::path> files;
  std::shared_ptr<const IndexedSamples> source;
  double max_bad_fraction = 0;
  DataScan scan;

  bool passed() const { return scan.bad_fraction <= max_bad_fraction; }
};

absl::StatusOr<CheckedSplit> CheckSplit(std::string name, std::vector<fs::path> files,
                                        double max_bad_fraction, const RunConfig& config,
                                        const WordPieceTokenizer& tokenizer,
                                        const IndexOptions& indexing,
                                        std::optional<int64_t> limit) {
  CheckedSplit split{std::move(name), std::move(files), nullptr, max_bad_fraction, {}};
  ASSIGN_OR_RETURN(IndexedSamples samples,
                   IndexedSamples::Open(split.files, config.data.root, indexing));
  split.source = std::make_shared<const IndexedSamples>(std::move(samples));
  DataScanOptions options;
  options.limit = limit;
  options.num_threads = static_cast<int>(config.data.num_threads);
  options.max_words = static_cast<int>(config.data.max_words);
  options.max_text_length = static_cast<int>(config.data.max_text_length);
  options.compat = AugmentCompat(config);
  ASSIGN_OR_RETURN(split.scan, ScanData(*split.source, tokenizer, options));
  return split;
}

// Reads training batches as a trainer would, for some seconds or `limit` pairs.
absl::StatusOr<Throughput> MeasureThroughput(RunConfig config,
                                             std::shared_ptr<const SampleSource> source,
                                             std::shared_ptr<const WordPieceTokenizer> tokenizer,
                                             std::optional<int64_t> limit) {
  constexpr std::chrono::seconds kDuration(3);
  config.data.max_bad_fraction = 1;  // the scan has judged already
  ASSIGN_OR_RETURN(const EpochPlan plan, PlanEpochs(config, source->size()));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<BatchStream> stream,
      OpenBatches(config,
                  {.source = std::move(source), .tokenizer = std::move(tokenizer), .plan = plan}));
  // The first batch includes the start of the threads.
  RETURN_IF_ERROR(stream->Next().status());
  Throughput throughput;
  const Clock::time_point start = Clock::now();
  do {
    ASSIGN_OR_RETURN(const BatchStream::Handle batch, stream->Next());
    throughput.pairs += batch->batch_size;
    throughput.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  } while (throughput.seconds < std::chrono::duration<double>(kDuration).count() &&
           throughput.pairs < limit.value_or(throughput.pairs + 1));
  return throughput;
}

double Share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

Json ToJson(const CheckedSplit& split) {
  const DataScan& scan = split.scan;
  Json json;
  for (const fs::path& file : split.files) json["files"].push_back(file.string());
  json["samples"] = scan.num_samples;
  json["images"] = scan.num_images;
  json["bad_images"] = scan.num_bad_images;
  json["captions"] = scan.num_captions;
  json["bad_captions"] = scan.num_bad_captions;
  json["faults"] = scan.faults;
  json["examples"] = Json::array();
  for (const DataFault& fault : scan.examples) {
    json["examples"].push_back({{"sample", fault.sample_index},
                                {"image", fault.image},
                                {"reason", fault.reason},
                                {"detail", fault.detail}});
  }
  json["bad_fraction"] = scan.bad_fraction;
  json["max_bad_fraction"] = split.max_bad_fraction;
  json["passed"] = split.passed();
  const Histogram& tokens = scan.caption_tokens;
  json["caption_tokens"] = {{"min", tokens.Percentile(0)},    {"mean", tokens.Mean()},
                            {"p50", tokens.Percentile(0.5)},  {"p95", tokens.Percentile(0.95)},
                            {"p99", tokens.Percentile(0.99)}, {"max", tokens.Percentile(1)}};
  json["truncated_share"] = Share(scan.num_truncated, tokens.total());
  json["unknown_share"] = Share(scan.num_unknown, scan.num_pieces);
  return json;
}

void Print(const CheckedSplit& split, const RunConfig& config) {
  const DataScan& scan = split.scan;
  fmt::print("{}\n", split.name);
  for (const fs::path& file : split.files) fmt::print("  file       {}\n", file.string());
  fmt::print("  samples    {}\n", scan.num_samples);
  fmt::print("  images     {}, {} bad\n", scan.num_images, scan.num_bad_images);
  fmt::print("  captions   {}, {} bad\n", scan.num_captions, scan.num_bad_captions);
  fmt::print("  bad share  {:.2f} % of samples, {:.2f} % allowed{}\n", 100 * scan.bad_fraction,
             100 * split.max_bad_fraction, split.passed() ? "" : ": TOO MANY");
  for (const auto& [reason, count] : scan.faults) fmt::print("    {} {}\n", count, reason);
  for (const DataFault& fault : scan.examples) {
    fmt::print("    sample {}, {}: {}: {}\n", fault.sample_index, fault.image, fault.reason,
               fault.detail);
  }
  const Histogram& tokens = scan.caption_tokens;
  fmt::print("  tokens     per caption: min {}, mean {:.1f}, median {}, 95 % {}, 99 % {}, max {}\n",
             tokens.Percentile(0), tokens.Mean(), tokens.Percentile(0.5), tokens.Percentile(0.95),
             tokens.Percentile(0.99), tokens.Percentile(1));
  fmt::print("  truncated  {:.2f} % of captions (data.max_text_length {}, data.max_words {})\n",
             100 * Share(scan.num_truncated, tokens.total()), config.data.max_text_length,
             config.data.max_words);
  fmt::print("  unknown    {:.3f} % of tokens\n", 100 * Share(scan.num_unknown, scan.num_pieces));
}

absl::StatusOr<ExitCode> Run(const Arguments& arguments) {
  ConfigOptions config_options;
  config_options.overrides = arguments.overrides;
  ASSIGN_OR_RETURN(const RunConfig config, LoadRunConfig(arguments.config, config_options));
  ASSIGN_OR_RETURN(const std::shared_ptr<const WordPieceTokenizer> tokenizer,
                   LoadTokenizer(config));
  ASSIGN_OR_RETURN(std::vector<fs::path> train_files, TrainFiles(config));
  // A check writes nothing where it may not: then the indices are gone with it.
  const TemporaryDirectory indices;
  IndexOptions indexing = IndexingOf(config);
  indexing.fallback_directory = indices.path();
  std::vector<CheckedSplit> splits;
  ASSIGN_OR_RETURN(splits.emplace_back(),
                   CheckSplit("train_file", std::move(train_files), config.data.max_bad_fraction,
                              config, *tokenizer, indexing, arguments.limit));
  if (config.eval.file) {
    // An evaluation substitutes nothing: one bad image or caption ends it.
    ASSIGN_OR_RETURN(splits.emplace_back(),
                     CheckSplit("eval.file", {DataPath(config, *config.eval.file)}, 0, config,
                                *tokenizer, indexing, arguments.limit));
  }
  // Without a usable sample there is nothing to time.
  absl::StatusOr<Throughput> throughput =
      splits[0].scan.bad_fraction < 1
          ? MeasureThroughput(config, splits[0].source, tokenizer, arguments.limit)
          : Throughput();

  bool passed = true;
  Json json;
  for (const CheckedSplit& split : splits) {
    passed = passed && split.passed();
    if (arguments.json) {
      json[split.name] = ToJson(split);
    } else {
      Print(split, config);
    }
  }
  if (arguments.json) {
    json["vocabulary_size"] = tokenizer->vocabulary().size();
    if (throughput.ok()) json["pairs_per_second"] = throughput->pairs_per_second();
    // Paths and details may hold bytes that are no UTF-8.
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("vocabulary   {}\n", tokenizer->vocabulary().size());
    if (throughput.ok()) {
      fmt::print("loader       {:.0f} pairs/s on {} threads ({} pairs in {:.1f} s)\n",
                 throughput->pairs_per_second(), config.data.num_threads, throughput->pairs,
                 throughput->seconds);
    }
  }
  if (!throughput.ok()) return throughput.status();
  return passed ? ExitCode::kDone : ExitCode::kOther;
}

}  // namespace

void AddDataCheck(CLI::App& parent, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* check = parent.add_subcommand("check",
                                          "Read all data of a configuration: counts, bad files, "
                                          "caption lengths, unknown tokens, speed");
  check->add_option("--config", arguments->config, "YAML file of a run")->required();
  check->add_option("--set", arguments->overrides, "KEY=VALUE: override a key; may be repeated")
      ->allow_extra_args(false);
  check->add_option("--limit", arguments->limit, "Look at the first samples only (default: all)")
      ->check(CLI::PositiveNumber);
  check->add_flag("--json", arguments->json, "Print one JSON object");
  check->callback([arguments, &chosen] {
    chosen = [arguments] {
      const absl::StatusOr<ExitCode> code = Run(*arguments);
      return code.ok() ? *code : Report(code.status());
    };
  });
}

}  // namespace albef
