// The ways out of a RunConfig: text, differences, digest.
#include <fmt/format.h>
#include <xxhash.h>

#include <optional>
#include <type_traits>

#include "common/config.h"
#include "common/config_schema.h"
#include "common/yaml_document.h"

namespace albef {
namespace {

using config_schema::Effect;
using config_schema::Rule;

std::string ToYaml(bool value) { return value ? "true" : "false"; }
std::string ToYaml(const std::string& value) { return QuoteYaml(value); }
std::string ToYaml(const std::vector<std::string>& values) {
  std::string list;
  for (const std::string& value : values) {
    list += fmt::format("{}{}", list.empty() ? "" : ", ", QuoteYaml(value));
  }
  return fmt::format("[{}]", list);
}
template <typename T>
std::string ToYaml(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [name, choice] : config_schema::ChoicesOf(value)) {
      if (choice == value) return std::string(name);
    }
    return "";
  } else {
    return fmt::format("{}", value);  // of a double the shortest text that reads back as the same
  }
}

struct Entry {
  std::string key;
  std::string value = {};     // as YAML
  std::string compared = {};  // what counts of the value where it changes the result
  Effect effect;
  bool is_set;

  bool ChangesTheResult() const { return effect != Effect::kNone; }
};

std::vector<Entry> Entries(const RunConfig& config) {
  std::vector<Entry> entries;
  config_schema::VisitFields(
      config, [&]<typename T>(std::string_view key, const T& field, const Rule& rule) {
        Entry entry{.key = std::string(key), .effect = rule.effect, .is_set = true};
        if constexpr (requires { field.has_value(); }) {
          entry.is_set = field.has_value();
          entry.value = field.has_value() ? ToYaml(*field) : std::string(rule.unset);
        } else {
          entry.value = ToYaml(field);
        }
        entry.compared = entry.value;
        if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          if (rule.effect == Effect::kFileNames) {
            std::vector<std::string> names;
            for (const std::string& path : field) {
              names.push_back(std::filesystem::path(path).filename().string());
            }
            entry.compared = ToYaml(names);
          }
        }
        entries.push_back(std::move(entry));
      });
  return entries;
}

}  // namespace

std::string ResolvedYaml(const RunConfig& config) {
  std::string yaml;
  std::string group;
  for (const Entry& entry : Entries(config)) {
    const size_t dot = entry.key.find('.');
    if (dot == std::string::npos) {
      yaml += fmt::format("{}: {}\n", entry.key, entry.value);
      continue;
    }
    if (entry.key.substr(0, dot) != group) {
      group = entry.key.substr(0, dot);
      yaml += fmt::format("{}:\n", group);
    }
    yaml += fmt::format("  {}: {}\n", entry.key.substr(dot + 1), entry.value);
  }
  return yaml;
}

std::vector<ConfigDifference> DifferencesThatChangeTheResult(const RunConfig& before,
                                                             const RunConfig& after) {
  const std::vector<Entry> old_entries = Entries(before);
  const std::vector<Entry> new_entries = Entries(after);
  std::vector<ConfigDifference> differences;
  for (size_t i = 0; i < old_entries.size(); ++i) {
    const Entry& a = old_entries[i];
    const Entry& b = new_entries[i];
    if (!a.ChangesTheResult() || a.compared == b.compared) continue;
    if (a.effect == Effect::kFirstStart && !(a.is_set && b.is_set)) continue;
    differences.push_back({a.key, a.value, b.value});
  }
  return differences;
}

void FillFromRun(const RunConfig& run, RunConfig& config) {
  const auto fill = [](const auto& source, auto& target) {
    if (!target.has_value()) target = source;
  };
  fill(run.bert_config.vocab_size, config.bert_config.vocab_size);
  fill(run.virtual_ranks, config.virtual_ranks);
  fill(run.threads_per_worker, config.threads_per_worker);
  fill(run.deterministic, config.deterministic);
  fill(run.reduction, config.reduction);
}

std::string ConfigDigest(const RunConfig& config) {
  std::string text;
  for (const Entry& entry : Entries(config)) {
    if (entry.ChangesTheResult()) text += fmt::format("{}: {}\n", entry.key, entry.compared);
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace albef
