#include "model/state_dict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <set>

namespace albef {
namespace {

constexpr std::string_view kHead = "cls.predictions.";

void Append(const torch::nn::Module& module, const std::string& prefix,
            std::vector<StateEntry>& entries) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    entries.push_back({prefix + item.key(), item.value(), ""});
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    entries.push_back({prefix + item.key(), item.value(), ""});
  }
  for (const auto& child : module.named_children()) {
    Append(*child.value(), prefix + child.key() + ".", entries);
  }
  if (!prefix.ends_with(kHead)) return;
  // The decoder is the head's last child.
  const std::string encoder = prefix.substr(0, prefix.size() - kHead.size());
  for (const auto& [second, first] :
       {std::pair(prefix + "decoder.weight", encoder + "bert.embeddings.word_embeddings.weight"),
        std::pair(prefix + "decoder.bias", prefix + "bias")}) {
    const auto tied = std::find_if(entries.begin(), entries.end(),
                                   [&](const StateEntry& entry) { return entry.key == first; });
    TORCH_CHECK(tied != entries.end(), "state dict: no ", first, " to tie ", second, " to");
    entries.push_back({second, torch::Tensor(tied->tensor), first});
  }
}

// The config key whose other value makes a source fit.
std::string_view Remedy(std::string_view key) {
  if (key.ends_with("_queue")) {
    return "; queue_size and embed_dim of the config must be those the file was made with";
  }
  if (key.ends_with("pos_embed")) return "; image_res must be that of the file";
  if (key.find("word_embeddings") != std::string_view::npos ||
      key.find("predictions.") != std::string_view::npos) {
    return "; vocab_size in bert_config must be that of the file";
  }
  return "; the model's sizes in the config must be those of the file";
}

std::string Names(const std::vector<std::string>& names, size_t max_names) {
  if (names.empty()) return {};
  const size_t shown = std::min(names.size(), max_names);
  return fmt::format(" ({}{})", fmt::join(names.begin(), names.begin() + shown, ", "),
                     shown < names.size() ? ", …" : "");
}

}  // namespace

std::vector<StateEntry> StateDict(const torch::nn::Module& module) {
  std::vector<StateEntry> entries;
  Append(module, "", entries);
  return entries;
}

std::string LoadReport::Summary(size_t max_names) const {
  std::string text = fmt::format("{} loaded", loaded.size());
  for (const auto& [label, names] :
       {std::pair("missing", &missing), std::pair("unexpected", &unexpected),
        std::pair("ignored", &ignored)}) {
    text += fmt::format(", {} {}{}", names->size(), label, Names(*names, max_names));
  }
  return text;
}

absl::StatusOr<LoadReport> LoadTensors(std::span<const StateEntry> entries, const TensorMap& source,
                                       std::string_view source_name, const LoadOptions& options) {
  LoadReport report;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> copies;
  std::map<std::string_view, torch::Tensor> first_values;  // by first name, for tied tensors
  std::set<std::string_view> known;
  // A missing name of a tied pair is found under the other one.
  std::map<std::string_view, std::string_view> second_names;
  for (const StateEntry& entry : entries) {
    if (!entry.tied_to.empty()) second_names.emplace(entry.tied_to, entry.key);
  }
  for (const StateEntry& entry : entries) {
    known.insert(entry.key);
    auto found = source.find(entry.key);
    if (found == source.end()) {
      std::string_view other = entry.tied_to;
      if (other.empty() && second_names.contains(entry.key)) other = second_names.at(entry.key);
      if (other.empty() || !source.contains(other)) {
        report.missing.push_back(entry.key);
        continue;
      }
      if (!entry.tied_to.empty()) continue;  // the first name brought the values
      found = source.find(other);
    }
    const torch::Tensor& value = found->second;
    if (value.sizes() != entry.tensor.sizes()) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {} has shape [{}] where the model has [{}]{}", source_name, entry.key,
                      fmt::join(value.sizes(), ", "), fmt::join(entry.tensor.sizes(), ", "),
                      Remedy(entry.key)));
    }
    if (value.is_floating_point() != entry.tensor.is_floating_point()) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {} is {} where the model has {}", source_name, entry.key,
          c10::toString(value.scalar_type()), c10::toString(entry.tensor.scalar_type())));
    }
    report.loaded.push_back(entry.key);
    if (entry.tied_to.empty()) {
      first_values.emplace(entry.key, value);
      copies.emplace_back(entry.tensor, value);
      continue;
    }
    if (const auto first = first_values.find(entry.tied_to);
        first != first_values.end() && !first->second.equal(value)) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {} and {} differ, but they are one tensor in the model; the file was not "
          "written by training this model",
          source_name, entry.tied_to, entry.key));
    }
  }
  for (const auto& [key, value] : source) {
    if (!known.contains(key)) report.unexpected.push_back(key);
  }
  if (options.require_complete && !(report.missing.empty() && report.unexpected.empty())) {
    return absl::FailedPreconditionError(
        fmt::format("{}: holds another model: {}; the model's sizes in the config must be those of "
                    "the file",
                    source_name, report.Summary()));
  }
  torch::NoGradGuard no_grad;
  for (auto& [target, value] : copies) target.copy_(value);
  return report;
}

absl::Status CheckQueuePointer(const TensorMap& source, int64_t queue_size,
                               std::string_view source_name) {
  const auto pointer = source.find("queue_ptr");
  if (pointer == source.end() || pointer->second.numel() != 1) return absl::OkStatus();
  const auto column = pointer->second.item<int64_t>();
  if (column >= 0 && column < queue_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: queue_ptr is {}, outside the queue of {} columns; the file is damaged",
                  source_name, column, queue_size));
}

}  // namespace albef
