// Reading a RunConfig: YAML, bert_config, overrides, types, combinations, files.
#include "common/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>
#include <type_traits>

#include "common/config_keys.h"
#include "common/config_schema.h"
#include "common/file.h"
#include "common/file_pattern.h"
#include "common/status_macros.h"
#include "common/yaml_document.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using config_keys::CheckKeys;
using config_keys::FindDotted;
using config_keys::Invalid;
using config_keys::IsGroup;
using config_keys::IsKey;
using config_keys::kBertConfig;
using config_keys::KeysOfGroup;
using config_keys::UnknownKey;
using config_schema::Rule;

constexpr uintmax_t kMaxFileBytes = 1 << 20;

// ---- Values -----------------------------------------------------------------------------------

// `value` is what was given, where it is a number at all.
std::string Expected(std::string_view type, const Rule& rule, std::optional<double> value) {
  std::string bounds;
  if (std::isfinite(rule.low)) {
    bounds = fmt::format("{} {}", rule.low_open ? "above" : "at least", rule.low);
  }
  // A limit that only keeps numbers from overflowing is worth a word to who meets it.
  const bool is_met = value.has_value() && *value >= rule.high;
  if (std::isfinite(rule.high) && (rule.high < config_schema::kMaxSize || is_met)) {
    bounds += fmt::format("{}{} {}", bounds.empty() ? "" : ", ",
                          rule.high_open ? "below" : "at most", rule.high);
  }
  return bounds.empty() ? std::string(type) : fmt::format("{} ({})", type, bounds);
}

template <typename T>
bool InRange(T value, const Rule& rule) {
  const double number = static_cast<double>(value);
  return (rule.low_open ? number > rule.low : number >= rule.low) &&
         (rule.high_open ? number < rule.high : number <= rule.high);
}

// The whole text as a decimal number of type T; nullopt for hexadecimal, inf, nan, overflow.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  if (text.find_first_not_of("0123456789+-.eE") != std::string_view::npos) return std::nullopt;
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// A field is read by the overload of its type; an error is only the problem: file, line and key
// come from the caller.
using Problem = std::optional<std::string>;

Problem ReadText(const YamlNode& node, std::string& field) {
  if (node.kind != YamlNode::Kind::kScalar) {
    return fmt::format("expected a text, got {}", DescribeKind(node));
  }
  if (node.text.empty()) return "expected a text, got an empty one";
  if (node.text.find('\0') != std::string::npos) return "a text may not contain the byte 0";
  field = node.text;
  return std::nullopt;
}

Problem Read(const YamlNode& node, const Rule& rule, std::string& field) {
  if (Problem problem = ReadText(node, field)) return problem;
  if (!rule.choice.empty() && field != rule.choice) {
    return fmt::format("\"{}\" is not available in this version; allowed: {}", field, rule.choice);
  }
  return std::nullopt;
}

Problem Read(const YamlNode& node, const Rule&, std::vector<std::string>& field) {
  field.clear();
  if (node.kind != YamlNode::Kind::kList) {
    if (node.kind != YamlNode::Kind::kScalar) {
      return fmt::format("expected a text or a list of texts, got {}", DescribeKind(node));
    }
    return ReadText(node, field.emplace_back());
  }
  if (node.items.empty()) return "expected at least one entry, got an empty list";
  for (size_t i = 0; i < node.items.size(); ++i) {
    if (Problem problem = ReadText(node.items[i], field.emplace_back())) {
      return fmt::format("entry {} ({}): {}", i, node.items[i].Where(), *problem);
    }
  }
  return std::nullopt;
}

Problem Read(const YamlNode& node, const Rule&, bool& field) {
  if (node.kind != YamlNode::Kind::kScalar || node.quoted ||
      (node.text != "true" && node.text != "false")) {
    return fmt::format("expected true or false, got {}", DescribeKind(node));
  }
  field = node.text == "true";
  return std::nullopt;
}

template <typename T>
Problem Read(const YamlNode& node, const Rule& rule, T& field) {
  if constexpr (std::is_enum_v<T>) {
    std::vector<std::string_view> names;
    for (const auto& [name, value] : config_schema::ChoicesOf(field)) {
      if (node.kind == YamlNode::Kind::kScalar && node.text == name) {
        field = value;
        return std::nullopt;
      }
      names.push_back(name);
    }
    return fmt::format("{} is not available in this version; allowed: {}", DescribeKind(node),
                       fmt::join(names, ", "));
  } else {
    static_assert(std::is_arithmetic_v<T>);
    std::optional<T> value;
    if (node.kind == YamlNode::Kind::kScalar && !node.quoted) value = ParseNumber<T>(node.text);
    if (!value.has_value() || !InRange(*value, rule)) {
      constexpr std::string_view kType = std::is_integral_v<T> ? "a whole number" : "a number";
      return fmt::format("expected {}, got {}{}{}", Expected(kType, rule, value),
                         DescribeKind(node), rule.why.empty() ? "" : "; ", rule.why);
    }
    field = *value;
    return std::nullopt;
  }
}

template <typename T>
Problem Read(const YamlNode& node, const Rule& rule, std::optional<T>& field) {
  if (node.kind == YamlNode::Kind::kNull || (!node.quoted && node.text == rule.unset)) {
    field.reset();
    return std::nullopt;
  }
  T value{};
  if (Problem problem = Read(node, rule, value)) return problem;
  field = std::move(value);
  return std::nullopt;
}

absl::StatusOr<RunConfig> ReadFields(const YamlNode& root) {
  RunConfig config;
  absl::Status status;
  config_schema::VisitFields(config, [&](std::string_view key, auto& field, const Rule& rule) {
    if (!status.ok()) return;
    const YamlNode* node = FindDotted(root, key);
    if (node == nullptr) {
      if (rule.required) status = Invalid(*root.source, key, "missing; it is required");
    } else if (const Problem problem = Read(*node, rule, field)) {
      status = Invalid(node->Where(), key, *problem);
    }
  });
  RETURN_IF_ERROR(status);
  return config;
}

// ---- Combinations and files ---------------------------------------------------------------------

// Names the first of the keys that the user gave: the others have their defaults.
absl::Status Impossible(const YamlNode& root, std::initializer_list<std::string_view> keys,
                        std::string_view problem) {
  for (const std::string_view key : keys) {
    if (const YamlNode* node = FindDotted(root, key)) return Invalid(node->Where(), key, problem);
  }
  return Invalid(*root.source, *keys.begin(), problem);
}

absl::Status CheckMultiple(const YamlNode& root, std::string_view key, int64_t value,
                           std::string_view of, int64_t divisor) {
  if (value % divisor == 0) return absl::OkStatus();
  return Impossible(root, {key, of},
                    fmt::format("{} = {} is not a multiple of {} = {}", key, value, of, divisor));
}

absl::Status CheckCombinations(const YamlNode& root, const RunConfig& config) {
  const RunConfig::Bert& bert = config.bert_config;
  RETURN_IF_ERROR(CheckMultiple(root, "image_res", config.image_res, "vision.patch_size",
                                config.vision.patch_size));
  RETURN_IF_ERROR(CheckMultiple(root, "vision_width", config.vision_width, "vision.heads",
                                config.vision.heads));
  RETURN_IF_ERROR(CheckMultiple(root, "bert_config.hidden_size", bert.hidden_size,
                                "bert_config.num_attention_heads", bert.num_attention_heads));
  if (bert.encoder_width != config.vision_width) {
    return Impossible(root, {"bert_config.encoder_width", "vision_width"},
                      fmt::format("encoder_width = {} must equal vision_width = {}, the width of "
                                  "the image tokens that the text layers attend to",
                                  bert.encoder_width, config.vision_width));
  }
  if (bert.fusion_layer >= bert.num_hidden_layers) {
    return Impossible(root, {"bert_config.fusion_layer", "bert_config.num_hidden_layers"},
                      fmt::format("fusion_layer = {} must be below num_hidden_layers = {}: the "
                                  "layers from it on join text and image",
                                  bert.fusion_layer, bert.num_hidden_layers));
  }
  if (config.data.max_text_length > bert.max_position_embeddings) {
    return Impossible(root, {"data.max_text_length", "bert_config.max_position_embeddings"},
                      fmt::format("max_text_length = {} is more than max_position_embeddings = {}",
                                  config.data.max_text_length, bert.max_position_embeddings));
  }
  if (config.eval.file.has_value() && fs::path(*config.eval.file).extension() == ".tar") {
    return Impossible(root, {"eval.file"},
                      "an evaluation reads a JSON file whose images are files; shards are for "
                      "train_file");
  }
  const RunConfig::Init& init = config.init;
  if (init.checkpoint.has_value() && (init.visual_encoder || init.text_encoder)) {
    return Impossible(root, {"init.checkpoint"},
                      "a checkpoint holds the whole model; remove visual_encoder and text_encoder, "
                      "or checkpoint");
  }
  if (init.visual_encoder.has_value() != init.text_encoder.has_value()) {
    return Impossible(root, {"init.visual_encoder", "init.text_encoder"},
                      "visual_encoder and text_encoder belong together; give both, each a path or "
                      "random");
  }
  return absl::OkStatus();
}

absl::Status CheckReduction(const YamlNode& root, const RunConfig& config,
                            std::string_view device) {
  if (config.reduction != RunConfig::Reduction::kNccl) return absl::OkStatus();
  if (device == "cpu") {
    return Impossible(root, {"reduction"},
                      "nccl adds gradients on GPUs, and this is --device cpu; allowed here: tree");
  }
  if (config.deterministic == true) {
    return Impossible(
        root, {"reduction", "deterministic"},
        "nccl adds gradients in an order that depends on the number of workers, which "
        "deterministic: true rules out; use reduction: tree, or deterministic: false");
  }
  return absl::OkStatus();
}

absl::Status CheckExists(const YamlNode& node, std::string_view key, const fs::path& path,
                         std::string_view base) {
  std::error_code error;
  if (fs::exists(path, error)) return absl::OkStatus();
  const std::string reason = error ? error.message() : "no such file";
  return absl::NotFoundError(
      fmt::format("{}: {}: {}: {}; {}", node.Where(), key, path.string(), reason, base));
}

absl::Status CheckFiles(const YamlNode& root, const RunConfig& config) {
  const std::string data_base =
      fmt::format("relative paths start at data.root = {}", config.data.root);
  const YamlNode& train = *FindDotted(root, "train_file");
  for (size_t i = 0; i < config.train_file.size(); ++i) {
    const YamlNode& node = train.kind == YamlNode::Kind::kList ? train.items[i] : train;
    const std::string key = fmt::format("train_file[{}]", i);
    const absl::StatusOr<std::vector<fs::path>> files =
        ExpandFilePattern(config.data.root, config.train_file[i]);
    if (!files.ok()) {
      return absl::Status(files.status().code(),
                          fmt::format("{}: {}: {}; {}", node.Where(), key,
                                      std::string(files.status().message()), data_base));
    }
    for (const fs::path& file : *files) {
      RETURN_IF_ERROR(CheckExists(node, key, file, data_base));
    }
  }
  const auto check = [&](std::string_view key, const std::optional<std::string>& file,
                         bool is_data) -> absl::Status {
    if (!file.has_value() || (!is_data && *file == kRandomInit)) return absl::OkStatus();
    return CheckExists(*FindDotted(root, key), key,
                       is_data ? DataPath(config, *file) : fs::path(*file),
                       is_data ? data_base : "relative paths start at the working directory");
  };
  RETURN_IF_ERROR(check("eval.file", config.eval.file, true));
  RETURN_IF_ERROR(check("tokenizer.vocab", config.tokenizer.vocab, true));
  RETURN_IF_ERROR(check("init.visual_encoder", config.init.visual_encoder, false));
  RETURN_IF_ERROR(check("init.text_encoder", config.init.text_encoder, false));
  return check("init.checkpoint", config.init.checkpoint, false);
}

// ---- Sources ------------------------------------------------------------------------------------

absl::StatusOr<std::string> ReadConfigFile(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: is a folder; expected a YAML file", path.string()));
  }
  if (fs::exists(status) && !fs::is_regular_file(status) && !fs::is_fifo(status)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: is a device; expected a YAML file", path.string()));
  }
  if (fs::is_regular_file(status) && fs::file_size(path, error) > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: more than {} bytes; expected a YAML file", path.string(), kMaxFileBytes));
  }
  return ReadFile(path);
}

// Replaces bert_config's path by the content of the file.
absl::Status InlineBertConfig(const fs::path& config_path, YamlNode& root) {
  YamlNode* node = root.Find(kBertConfig);
  if (node == nullptr || node->kind != YamlNode::Kind::kScalar) return absl::OkStatus();
  std::string name;
  if (const Problem problem = ReadText(*node, name)) {
    return Invalid(node->Where(), kBertConfig, *problem);
  }
  const fs::path folder = config_path.parent_path();
  std::string searched;
  for (const fs::path& place : {folder / name, folder / ".." / name, fs::path(name)}) {
    searched += fmt::format("{}{}", searched.empty() ? "" : ", ", place.string());
    std::error_code error;
    if (!fs::exists(place, error)) continue;
    ASSIGN_OR_RETURN(const std::string text, ReadConfigFile(place));
    ASSIGN_OR_RETURN(YamlNode content, ParseYaml(text, place.string()));
    if (content.kind != YamlNode::Kind::kMapping) {
      return absl::InvalidArgumentError(
          fmt::format("{} ({} of {}): expected a mapping with the keys {}, got {}", content.Where(),
                      kBertConfig, node->Where(), fmt::join(KeysOfGroup(kBertConfig), ", "),
                      DescribeKind(content)));
    }
    *node = std::move(content);
    return absl::OkStatus();
  }
  return absl::NotFoundError(fmt::format("{}: {}: {}: no such file; looked for {}", node->Where(),
                                         kBertConfig, name, searched));
}

absl::Status ApplyOverride(const std::string& text, const fs::path& config_path, YamlNode& root) {
  const std::string source = fmt::format("--set {}", text);
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        fmt::format("{}: expected KEY=VALUE, for example optimizer.lr=3e-4", source));
  }
  const std::string dotted = text.substr(0, equals);
  if (!IsKey(dotted) && !IsGroup(dotted)) return UnknownKey(source, dotted);
  ASSIGN_OR_RETURN(YamlNode value, ParseYamlValue(text.substr(equals + 1), source));

  const size_t dot = dotted.find('.');
  const std::string group = dotted.substr(0, dot);
  if (dot != std::string::npos && group == kBertConfig) {
    RETURN_IF_ERROR(InlineBertConfig(config_path, root));
  }
  const auto put = [](YamlNode& mapping, std::string_view key, YamlNode node) {
    if (YamlNode* present = mapping.Find(key)) {
      *present = std::move(node);
    } else {
      mapping.entries.emplace_back(key, std::move(node));
    }
  };
  if (dot == std::string::npos) {
    put(root, dotted, std::move(value));
    return CheckKeys(root, "");
  }
  if (root.Find(group) == nullptr) {
    YamlNode mapping;
    mapping.source = value.source;
    root.entries.emplace_back(group, std::move(mapping));
  }
  YamlNode& mapping = *root.Find(group);
  mapping.kind = YamlNode::Kind::kMapping;
  put(mapping, dotted.substr(dot + 1), std::move(value));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RunConfig> LoadRunConfig(const fs::path& path, const ConfigOptions& options) {
  ASSIGN_OR_RETURN(const std::string text, ReadConfigFile(path));
  return ParseRunConfig(text, path, options);
}

absl::StatusOr<RunConfig> ParseRunConfig(std::string_view yaml, const fs::path& path,
                                         const ConfigOptions& options) {
  ASSIGN_OR_RETURN(YamlNode root, ParseYaml(yaml, path.string()));
  if (root.kind != YamlNode::Kind::kMapping && root.kind != YamlNode::Kind::kNull) {
    return absl::InvalidArgumentError(fmt::format("{}: expected a mapping with the keys {}, got {}",
                                                  root.Where(), fmt::join(KeysOfGroup(""), ", "),
                                                  DescribeKind(root)));
  }
  RETURN_IF_ERROR(CheckKeys(root, ""));
  for (const std::string& text : options.overrides) {
    RETURN_IF_ERROR(ApplyOverride(text, path, root));
  }
  RETURN_IF_ERROR(InlineBertConfig(path, root));
  RETURN_IF_ERROR(CheckKeys(root, ""));
  if (root.Find(kBertConfig) == nullptr) {
    return Invalid(
        *root.source, kBertConfig,
        "missing; it is required: a path such as configs/config_bert.json, or a mapping");
  }
  ASSIGN_OR_RETURN(RunConfig config, ReadFields(root));
  RETURN_IF_ERROR(CheckCombinations(root, config));
  RETURN_IF_ERROR(CheckReduction(root, config, options.device));
  if (options.check_files) RETURN_IF_ERROR(CheckFiles(root, config));
  return config;
}

absl::Status CheckNewRun(const RunConfig& config) {
  if (!config.init.checkpoint.has_value() && !config.init.visual_encoder.has_value()) {
    return absl::InvalidArgumentError(
        "init: a new run needs to know where its weights come from. The authors start from "
        "deit_base_patch16_224-b5f2ef4d.pth (init.visual_encoder) and bert-base-uncased's "
        "pytorch_model.bin or model.safetensors (init.text_encoder). Give both, each a path or "
        "random, or an earlier checkpoint (init.checkpoint)");
  }
  if (!config.tokenizer.vocab.has_value()) {
    return absl::InvalidArgumentError(
        "tokenizer.vocab: missing. Give the path of a WordPiece vocabulary; the authors use "
        "bert-base-uncased's vocab.txt");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<fs::path>> TrainFiles(const RunConfig& config) {
  std::vector<fs::path> all;
  for (const std::string& pattern : config.train_file) {
    ASSIGN_OR_RETURN(const std::vector<fs::path> files,
                     ExpandFilePattern(config.data.root, pattern));
    all.insert(all.end(), files.begin(), files.end());
  }
  return all;
}

fs::path DataPath(const RunConfig& config, std::string_view file) {
  return fs::path(config.data.root) / file;
}

}  // namespace albef
