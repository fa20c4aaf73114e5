// The keys of the configuration as names: which exist, and which one was meant by another. Private
// to config*.cc.
//
// Keys are dotted ("optimizer.lr"). All functions are safe to call from any thread.
#ifndef ALBEF_COMMON_CONFIG_KEYS_H_
#define ALBEF_COMMON_CONFIG_KEYS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/yaml_document.h"

namespace albef::config_keys {

// The one group that may also be the path of a file.
inline constexpr std::string_view kBertConfig = "bert_config";

// INVALID_ARGUMENT "where: key: problem".
absl::Status Invalid(std::string_view where, std::string_view key, std::string_view problem);

bool IsKey(std::string_view dotted);
bool IsGroup(std::string_view dotted);

// The keys of a group ("" is the top level), without its name and without what lies below them.
std::vector<std::string> KeysOfGroup(std::string_view group);

// INVALID_ARGUMENT that names the key most like it and those that are allowed in its place.
absl::Status UnknownKey(std::string_view where, std::string_view dotted);

// Every key of a tree is known, and groups are mappings (or empty, or bert_config's path);
// INVALID_ARGUMENT otherwise. `group` is the name of `mapping`.
absl::Status CheckKeys(const YamlNode& mapping, std::string_view group);

// nullptr where the tree has no such key.
const YamlNode* FindDotted(const YamlNode& root, std::string_view dotted);

}  // namespace albef::config_keys

#endif  // ALBEF_COMMON_CONFIG_KEYS_H_
