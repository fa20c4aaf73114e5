#include "model/pretrained.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include "common/status_macros.h"
#include "model/initialization.h"
#include "model/weights_file.h"

namespace albef {
namespace {

constexpr std::string_view kVisual = "visual_encoder.";
constexpr std::string_view kText = "text_encoder.";

// Resizes `value` to the positions of `wanted` where both are square grids of one width; any other
// difference is left for LoadTensors to report.
torch::Tensor FitPositions(const torch::Tensor& value, const torch::Tensor& wanted) {
  const auto is_grid = [](int64_t num_tokens) {
    const auto root =
        static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(num_tokens - 1))));
    return num_tokens > 1 && root * root == num_tokens - 1;
  };
  if (value.dim() != 3 || value.size(0) != 1 || value.size(2) != wanted.size(2) ||
      !value.is_floating_point() || !is_grid(value.size(1)) || !is_grid(wanted.size(1))) {
    return value;
  }
  return InterpolatePositions(value.to(torch::kFloat32), wanted.size(1));
}

void FitAllPositions(const std::vector<StateEntry>& entries, TensorMap& source) {
  for (const StateEntry& entry : entries) {
    if (!entry.key.ends_with(".pos_embed")) continue;
    if (const auto found = source.find(entry.key); found != source.end()) {
      found->second = FitPositions(found->second, entry.tensor);
    }
  }
}

// Entries of one part of the student.
std::vector<StateEntry> Part(const AlbefImpl& model, std::string_view prefix) {
  std::vector<StateEntry> entries = StateDict(model);
  std::erase_if(entries, [&](const StateEntry& entry) { return !entry.key.starts_with(prefix); });
  return entries;
}

// A file under the model's names; where `rename` has no name, the tensor is ignored.
struct Renamed {
  TensorMap tensors;
  std::vector<std::string> ignored;
};

absl::StatusOr<Renamed> Rename(
    const TensorMap& source, const std::filesystem::path& path,
    const std::function<std::optional<std::string>(const std::string&)>& rename) {
  Renamed renamed;
  for (const auto& [key, tensor] : source) {
    std::optional<std::string> name = rename(key);
    if (!name.has_value()) {
      renamed.ignored.push_back(key);
    } else if (!renamed.tensors.emplace(*name, tensor).second) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {} and another name in the file both mean {}", path.string(), key, *name));
    }
  }
  return renamed;
}

// INVALID_ARGUMENT if something is missing that may not be.
absl::Status RequireAllBut(const LoadReport& report, const std::filesystem::path& path,
                           std::string_view what,
                           const std::function<bool(std::string_view)>& may_be_missing) {
  LoadReport lacking;
  std::copy_if(report.missing.begin(), report.missing.end(), std::back_inserter(lacking.missing),
               [&](const std::string& key) { return !may_be_missing(key); });
  if (lacking.missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "{}: {} of {}'s weights are not there, the first is {}; the file must hold an encoder at "
      "least as deep as the config's",
      path.string(), lacking.missing.size(), what, lacking.missing.front()));
}

}  // namespace

absl::StatusOr<LoadReport> LoadVisualEncoder(AlbefImpl& model, const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const TensorMap source, ReadWeights(path));
  ASSIGN_OR_RETURN(Renamed renamed,
                   Rename(source, path, [](const std::string& key) -> std::optional<std::string> {
                     if (key.starts_with("head.")) return std::nullopt;
                     return std::string(kVisual) + key;
                   }));
  const std::vector<StateEntry> entries = Part(model, kVisual);
  FitAllPositions(entries, renamed.tensors);
  ASSIGN_OR_RETURN(LoadReport report, LoadTensors(entries, renamed.tensors, path.string()));
  RETURN_IF_ERROR(
      RequireAllBut(report, path, "the image encoder", [](std::string_view) { return false; }));
  report.ignored = std::move(renamed.ignored);
  return report;
}

absl::StatusOr<LoadReport> LoadTextEncoder(AlbefImpl& model, const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const TensorMap source, ReadWeights(path));
  const bool is_bare = std::none_of(source.begin(), source.end(), [](const auto& item) {
    return item.first.starts_with("bert.");
  });
  const auto rename = [&](const std::string& key) -> std::optional<std::string> {
    std::string name = is_bare && !key.starts_with("cls.") ? "bert." + key : key;
    if (name.starts_with("bert.pooler.") || name.starts_with("cls.seq_relationship.")) {
      return std::nullopt;
    }
    for (const auto& [old_end, new_end] :
         {std::pair<std::string_view, std::string_view>(".gamma", ".weight"), {".beta", ".bias"}}) {
      if (!name.ends_with(old_end)) continue;
      name.replace(name.size() - old_end.size(), old_end.size(), new_end);
      break;
    }
    return std::string(kText) + name;
  };
  ASSIGN_OR_RETURN(Renamed renamed, Rename(source, path, rename));
  ASSIGN_OR_RETURN(LoadReport report,
                   LoadTensors(Part(model, kText), renamed.tensors, path.string()));
  RETURN_IF_ERROR(RequireAllBut(report, path, "BERT", [](std::string_view key) {
    return key.find(".crossattention.") != std::string_view::npos ||
           key.find(".cls.predictions.") != std::string_view::npos ||
           key.ends_with(".position_ids");
  }));
  report.ignored = std::move(renamed.ignored);
  return report;
}

absl::StatusOr<LoadReport> LoadWholeModel(AlbefImpl& model, const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const TensorMap source, ReadWeights(path));
  ASSIGN_OR_RETURN(Renamed renamed,
                   Rename(source, path, [](const std::string& key) -> std::optional<std::string> {
                     for (const char* prefix : {"exp_avg.", "exp_avg_sq.", "counters."}) {
                       if (key.starts_with(prefix)) return std::nullopt;
                     }
                     return key;
                   }));
  const std::vector<StateEntry> entries = StateDict(model);
  FitAllPositions(entries, renamed.tensors);
  RETURN_IF_ERROR(CheckQueuePointer(renamed.tensors, model.options().queue_size, path.string()));
  ASSIGN_OR_RETURN(LoadReport report, LoadTensors(entries, renamed.tensors, path.string(),
                                                  {.require_complete = true}));
  report.ignored = std::move(renamed.ignored);
  return report;
}

absl::StatusOr<std::vector<InitializationStep>> InitializeModel(AlbefImpl& model,
                                                                const RunConfig::Init& init,
                                                                uint64_t seed) {
  InitializeRandomly(model, seed);
  std::vector<InitializationStep> steps;
  const auto load =
      [&](const char* what, const std::optional<std::string>& file,
          absl::StatusOr<LoadReport> (*loader)(AlbefImpl&, const std::filesystem::path&)) {
        if (!file.has_value() || *file == kRandomInit) return absl::OkStatus();
        ASSIGN_OR_RETURN(LoadReport report, loader(model, *file));
        steps.push_back({what, *file, std::move(report)});
        return absl::OkStatus();
      };
  RETURN_IF_ERROR(load("visual_encoder", init.visual_encoder, LoadVisualEncoder));
  RETURN_IF_ERROR(load("text_encoder", init.text_encoder, LoadTextEncoder));
  CopyStudentToTeacher(model);
  RETURN_IF_ERROR(load("checkpoint", init.checkpoint, LoadWholeModel));
  return steps;
}

}  // namespace albef
