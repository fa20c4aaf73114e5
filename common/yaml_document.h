// YAML text as a small tree that remembers where every value came from.
//
// Strict where YAML is dangerous or surprising: one document, no anchors, aliases or explicit tags,
// keys are texts and unique, at most 1 MiB and 32 levels, valid UTF-8. JSON is YAML too. Errors are
// INVALID_ARGUMENT and begin with "file:line: ".
#ifndef ALBEF_COMMON_YAML_DOCUMENT_H_
#define ALBEF_COMMON_YAML_DOCUMENT_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace albef {

// Movable and copyable value.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMapping };

  Kind kind = Kind::kNull;
  std::string text;     // of a scalar
  bool quoted = false;  // a scalar that is text whatever it looks like
  std::vector<YamlNode> items;
  std::vector<std::pair<std::string, YamlNode>> entries;  // in the order of the file

  std::shared_ptr<const std::string> source;  // file name, or the text of an override
  int line = 0;                               // from 1; 0 where lines mean nothing

  // "file:line", or only the source.
  std::string Where() const;

  // nullptr where a mapping has no such key.
  const YamlNode* Find(std::string_view key) const;
  YamlNode* Find(std::string_view key);
};

// "a text", "a list" … for messages.
std::string DescribeKind(const YamlNode& node);

// An empty document is an empty mapping. `source` names the text in messages.
absl::StatusOr<YamlNode> ParseYaml(std::string_view text, std::string_view source);

// As ParseYaml, for a text that is no file: its nodes have no line.
absl::StatusOr<YamlNode> ParseYamlValue(std::string_view text, std::string_view source);

// A double-quoted scalar, or a plain one where that reads back as the same text.
std::string QuoteYaml(std::string_view text);

}  // namespace albef

#endif  // ALBEF_COMMON_YAML_DOCUMENT_H_
