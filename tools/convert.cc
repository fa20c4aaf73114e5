// albef convert: checkpoints between our folders, the authors' .pth and safetensors.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/catalogue.h"
#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/store.h"
#include "common/config.h"
#include "common/status_macros.h"
#include "formats/safetensors.h"
#include "model/official_checkpoint.h"
#include "model/tensor_io.h"
#include "model/train_state.h"
#include "tools/command.h"
#include "worker/checkpointing.h"
#include "worker/run_options.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEpochKey = "epoch";
constexpr const char* kStepsPerEpochKey = "steps_per_epoch";

struct Arguments {
  std::string input;
  std::string output;
  std::string config;
};

enum class Kind { kFolder, kPth, kSafetensors };

absl::StatusOr<Kind> KindOf(const fs::path& path) {
  if (fs::is_directory(path)) return Kind::kFolder;  // also one named run.v2
  const std::string extension = path.extension().string();
  if (extension == ".pth" || extension == ".pt" || extension == ".bin") return Kind::kPth;
  if (extension == ".safetensors") return Kind::kSafetensors;
  if (extension.empty()) return Kind::kFolder;
  return absl::InvalidArgumentError(fmt::format(
      "{}: unknown kind of checkpoint; use a folder of ours, a file .pth or a file .safetensors",
      path.string()));
}

// The configuration decides sizes that no file tells, such as the number of heads.
absl::StatusOr<RunConfig> LoadConfig(const Arguments& arguments, const fs::path& input, Kind kind) {
  fs::path path = arguments.config;
  if (path.empty() && kind == Kind::kFolder) {
    path = fs::absolute(input).lexically_normal().parent_path().parent_path() / "config.yaml";
  }
  if (path.empty() || !fs::exists(path)) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: the model's configuration is needed to read it; name it with --config (a run keeps it "
        "as RUN_DIR/config.yaml, the authors' is configs/Pretrain.yaml)",
        input.string()));
  }
  ASSIGN_OR_RETURN(RunConfig config, LoadRunConfig(path, {.overrides = {}, .check_files = false}));
  if (!config.bert_config.vocab_size) {
    return absl::InvalidArgumentError(
        fmt::format("{}: vocab_size is auto, so the size of the word embeddings is unknown; use "
                    "the config.yaml "
                    "of the run, or write the number",
                    path.string()));
  }
  return config;
}

// What a checkpoint says about its place in the run.
struct Progress {
  int64_t epochs_done = 0;
  std::optional<int64_t> steps_per_epoch;
};

std::optional<int64_t> FindNumber(const std::map<std::string, std::string>& facts,
                                  const std::string& key) {
  const auto found = facts.find(key);
  int64_t value = 0;
  if (found == facts.end() ||
      std::from_chars(found->second.data(), found->second.data() + found->second.size(), value)
              .ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

absl::StatusOr<Progress> Read(const fs::path& input, Kind kind, TrainState& state) {
  Progress progress;
  switch (kind) {
    case Kind::kFolder: {
      ASSIGN_OR_RETURN(const LoadedCheckpoint checkpoint, LoadedCheckpoint::Open(input));
      RETURN_IF_ERROR(RestoreState(checkpoint, state));
      const CheckpointInfo& info = checkpoint.manifest().info;
      progress = {.epochs_done = info.counters.epoch,
                  .steps_per_epoch = FindNumber(info.facts, kStepsPerEpochKey)};
      break;
    }
    case Kind::kPth: {
      ASSIGN_OR_RETURN(const OfficialProgress official, ImportOfficialCheckpoint(input, state));
      progress.epochs_done = official.epoch + 1;
      if (progress.epochs_done > 0) {
        progress.steps_per_epoch = official.updates / progress.epochs_done;
      }
      break;
    }
    case Kind::kSafetensors: {
      ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(input));
      RETURN_IF_ERROR(state.Restore(file.tensors(), input.string()));
      progress = {.epochs_done = FindNumber(file.metadata(), kEpochKey).value_or(0),
                  .steps_per_epoch = FindNumber(file.metadata(), kStepsPerEpochKey)};
      break;
    }
  }
  return progress;
}

std::vector<NamedTensor> Views(const std::vector<StateEntry>& entries) {
  std::vector<NamedTensor> tensors;
  for (const StateEntry& entry : entries) tensors.push_back({entry.key, ViewTensor(entry.tensor)});
  return tensors;
}

// The rate of the last step, as the authors' scheduler state holds it.
double LastLearningRate(const RunConfig& config, const TrainState& state,
                        const Progress& progress) {
  const int64_t last = state.counters().iteration - 1;
  if (last < 0 || !progress.steps_per_epoch || *progress.steps_per_epoch < 1) {
    return config.schedular.warmup_lr;
  }
  return LearningRate(LearningRateOptions(config), PositionOf(last, *progress.steps_per_epoch));
}

absl::Status Write(const fs::path& output, Kind kind, const RunConfig& config,
                   const TrainState& state, const Progress& progress) {
  std::map<std::string, std::string> facts;
  if (progress.steps_per_epoch)
    facts[kStepsPerEpochKey] = std::to_string(*progress.steps_per_epoch);
  switch (kind) {
    case Kind::kPth:
      return ExportOfficialCheckpoint(output, state,
                                      {.config = config,
                                       .lr = LastLearningRate(config, state, progress),
                                       .epoch = progress.epochs_done - 1});
    case Kind::kSafetensors:
      facts[kEpochKey] = std::to_string(progress.epochs_done);
      return WriteSafetensors(output, Views(state.State()), facts);
    case Kind::kFolder: {
      CheckpointStore::Options options;
      options.root = output;
      ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(std::move(options)));
      CheckpointInfo info;
      const StepCounters& counters = state.counters();
      info.counters = {.iteration = counters.iteration,
                       .updates = counters.updates,
                       .ema_updates = counters.ema_updates,
                       .epoch = progress.epochs_done};
      info.config_digest = ConfigDigest(config);
      info.virtual_ranks = config.virtual_ranks.value_or(1);
      info.seed = config.seed;
      info.facts = std::move(facts);
      return store->Write(Views(state.State()), info, {}).status();
    }
  }
  return absl::InternalError("unknown kind of checkpoint");
}

absl::Status Convert(const Arguments& arguments) {
  fs::path input = arguments.input;
  const fs::path output = arguments.output;
  ASSIGN_OR_RETURN(const Kind input_kind, KindOf(input));
  ASSIGN_OR_RETURN(const Kind output_kind, KindOf(output));
  if (!fs::exists(input)) {
    return absl::NotFoundError(fmt::format("{}: no such checkpoint", input.string()));
  }
  if (input_kind == Kind::kFolder) {
    ASSIGN_OR_RETURN(input, FindCheckpoint(input));
  }
  if (output_kind != Kind::kFolder && fs::exists(output)) {
    return absl::FailedPreconditionError(
        fmt::format("{}: is there already; remove it or choose another name", output.string()));
  }
  ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments, input, input_kind));
  TrainState state(Albef(ModelOptions(config)), StateOptions(config, torch::kCPU));
  ASSIGN_OR_RETURN(const Progress progress, Read(input, input_kind, state));
  RETURN_IF_ERROR(Write(output, output_kind, config, state, progress));
  fmt::print("{} -> {}: iteration {}, {} updates, {} epochs done\n", input.string(),
             output.string(), state.counters().iteration, state.counters().updates,
             progress.epochs_done);
  return absl::OkStatus();
}

}  // namespace

void AddConvert(CLI::App& parent, Command& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* convert =
      parent.add_subcommand("convert",
                            "Convert a checkpoint between a folder of ours, the authors' .pth and "
                            ".safetensors; the whole "
                            "training state, so that either side can go on training");
  convert
      ->add_option("input", arguments->input,
                   "checkpoint folder, run directory (its newest), FILE.pth or FILE.safetensors")
      ->required();
  convert
      ->add_option("output", arguments->output,
                   "FILE.pth, FILE.safetensors, or a folder that gets step-<iteration>/")
      ->required();
  convert->add_option("--config", arguments->config,
                      "configuration of the model (default: the config.yaml of the input's run)");
  convert->callback(
      [arguments, &chosen] { chosen = [arguments] { return Report(Convert(*arguments)); }; });
}

}  // namespace albef
