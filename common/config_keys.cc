#include "common/config_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "common/config.h"
#include "common/config_schema.h"
#include "common/status_macros.h"

namespace albef::config_keys {
namespace {

const std::vector<std::string>& AllKeys() {
  static const auto* const keys = [] {
    auto* list = new std::vector<std::string>;
    const RunConfig defaults;
    config_schema::VisitFields(defaults,
                               [&](std::string_view key, const auto&, const config_schema::Rule&) {
                                 list->emplace_back(key);
                               });
    return list;
  }();
  return *keys;
}

// Edits (insert, drop, replace, swap neighbours) that turn `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> table(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        table[i][j] = i + j;
        continue;
      }
      const size_t replaced = table[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      table[i][j] = std::min({replaced, table[i - 1][j] + 1, table[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        table[i][j] = std::min(table[i][j], table[i - 2][j - 2] + 1);
      }
    }
  }
  return table[a.size()][b.size()];
}

// The known key most like an unknown one: the same name in another group, or a slip of the pen.
std::optional<std::string> Suggestion(std::string_view dotted) {
  const std::string_view name = dotted.substr(dotted.rfind('.') + 1);
  const std::string group(dotted.substr(0, dotted.size() - name.size()));
  std::optional<std::string> best;
  size_t best_distance = 1 + std::max<size_t>(1, name.size() / 3);
  for (const std::string& candidate : KeysOfGroup(group.substr(0, group.size() - !group.empty()))) {
    if (const size_t distance = EditDistance(name, candidate); distance < best_distance) {
      best_distance = distance;
      best = group + candidate;
    }
  }
  if (best.has_value()) return best;
  for (const std::string& key : AllKeys()) {
    if (key.ends_with(fmt::format(".{}", name)) || key == name) return key;
  }
  return std::nullopt;
}

}  // namespace

absl::Status Invalid(std::string_view where, std::string_view key, std::string_view problem) {
  return absl::InvalidArgumentError(fmt::format("{}: {}: {}", where, key, problem));
}

bool IsKey(std::string_view dotted) {
  return std::find(AllKeys().begin(), AllKeys().end(), dotted) != AllKeys().end();
}

std::vector<std::string> KeysOfGroup(std::string_view group) {
  const std::string prefix = group.empty() ? "" : fmt::format("{}.", group);
  std::vector<std::string> names;
  for (const std::string& key : AllKeys()) {
    if (!key.starts_with(prefix)) continue;
    std::string name = key.substr(prefix.size(), key.find('.', prefix.size()) - prefix.size());
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}

bool IsGroup(std::string_view dotted) { return !IsKey(dotted) && !KeysOfGroup(dotted).empty(); }

absl::Status UnknownKey(std::string_view where, std::string_view dotted) {
  const std::optional<std::string> suggestion = Suggestion(dotted);
  const size_t dot = dotted.rfind('.');
  const std::string group(dot == std::string_view::npos ? "" : dotted.substr(0, dot));
  std::string problem = "unknown key";
  if (suggestion.has_value()) problem += fmt::format("; did you mean {}?", *suggestion);
  if (const std::vector<std::string> allowed = KeysOfGroup(group); !allowed.empty()) {
    problem +=
        fmt::format("{} allowed{}: {}", suggestion.has_value() ? "" : ";",
                    group.empty() ? "" : fmt::format(" in {}", group), fmt::join(allowed, ", "));
  }
  return Invalid(where, dotted, problem);
}

absl::Status CheckKeys(const YamlNode& mapping, std::string_view group) {
  for (const auto& [name, node] : mapping.entries) {
    const std::string dotted = group.empty() ? name : fmt::format("{}.{}", group, name);
    if (name.find('.') != std::string::npos || !(IsKey(dotted) || IsGroup(dotted))) {
      return UnknownKey(node.Where(), dotted);
    }
    if (IsKey(dotted)) continue;
    const bool is_path = dotted == kBertConfig && node.kind == YamlNode::Kind::kScalar;
    if (node.kind == YamlNode::Kind::kMapping) {
      RETURN_IF_ERROR(CheckKeys(node, dotted));
    } else if (node.kind != YamlNode::Kind::kNull && !is_path) {
      return Invalid(node.Where(), dotted,
                     fmt::format("expected a mapping with the keys {}, got {}",
                                 fmt::join(KeysOfGroup(dotted), ", "), DescribeKind(node)));
    }
  }
  return absl::OkStatus();
}

const YamlNode* FindDotted(const YamlNode& root, std::string_view dotted) {
  const size_t dot = dotted.find('.');
  const YamlNode* node = root.Find(dotted.substr(0, dot));
  if (node == nullptr || dot == std::string_view::npos) return node;
  return node->Find(dotted.substr(dot + 1));
}

}  // namespace albef::config_keys
