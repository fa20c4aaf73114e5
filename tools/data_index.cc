// albef data index: make the indices of a configuration's data ahead of a run.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/resources.h"
#include "common/status_macros.h"
#include "dataloader/dataset.h"
#include "dataloader/indexed_samples.h"
#include "tools/command.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Arguments {
  fs::path config;
  std::vector<std::string> overrides;
  bool rebuild = false;
};

absl::Status Run(const Arguments& arguments) {
  ConfigOptions config_options;
  config_options.overrides = arguments.overrides;
  ASSIGN_OR_RETURN(const RunConfig config, LoadRunConfig(arguments.config, config_options));
  IndexOptions options = IndexingOf(config);
  options.rebuild = arguments.rebuild;
  options.notify = [](std::string_view event) { fmt::print(stderr, "{}\n", event); };
  ASSIGN_OR_RETURN(std::vector<fs::path> files, TrainFiles(config));
  if (config.eval.file) files.push_back(DataPath(config, *config.eval.file));

  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(const IndexedSamples samples,
                   IndexedSamples::Open(files, config.data.root, options));
  uint64_t num_bytes = 0;
  for (const IndexedSamples::File& file : samples.files()) {
    const SampleIndex& index = file.opened.index;
    num_bytes += index.num_bytes();
    fmt::print("{}\n  {} samples, {} bytes, {}: {}\n", file.path.string(), index.size(),
               index.num_bytes(), file.opened.built ? "made" : "there already",
               file.opened.path.string());
  }
  fmt::print("all: {} samples, {} bytes in {:.1f} s, {:.0f} MiB of memory at the peak\n",
             samples.size(), num_bytes, std::chrono::duration<double>(Clock::now() - start).count(),
             static_cast<double>(PeakResidentBytes()) / (1 << 20));
  return absl::OkStatus();
}

}  // namespace

void AddDataIndex(CLI::App& parent, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* index = parent.add_subcommand(
      "index", "Make the indices that a run needs of train_file and eval.file, ahead of it");
  index->add_option("--config", arguments->config, "YAML file of a run")->required();
  index->add_option("--set", arguments->overrides, "KEY=VALUE: override a key; may be repeated")
      ->allow_extra_args(false);
  index->add_flag("--rebuild", arguments->rebuild, "Make them anew, whatever is there");
  index->callback(
      [arguments, &chosen] { chosen = [arguments] { return Report(Run(*arguments)); }; });
}

}  // namespace albef
