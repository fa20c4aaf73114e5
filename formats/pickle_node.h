// The mutable inside of pickle values, for the code that builds them (pickle_machine.cc,
// pickle_value.cc).
#ifndef ALBEF_FORMATS_PICKLE_NODE_H_
#define ALBEF_FORMATS_PICKLE_NODE_H_

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "formats/pickle_value.h"

namespace albef {

struct PickleNode {
  using Kind = PickleValue::Kind;
  // Views refer to the strings of the items' keys.
  using KeyRef = std::variant<int64_t, std::string_view>;

  struct Items {
    std::vector<PickleValue::Item> list;
    absl::flat_hash_map<KeyRef, size_t> index;  // of the str and int keys

    // False if the key, a str or an int, is there already.
    bool Add(PickleValue key, PickleValue value);
  };
  struct Dict {
    Items items;
    PickleValue attributes;
    bool ordered = false;
  };
  struct Object {
    PickleValue callable;  // a global or an object
    PickleValue args;      // a tuple
    PickleValue keyword_args;
    PickleValue state;
    std::vector<PickleValue> appended;
    Items items;
  };
  using Content =
      std::variant<std::string, std::vector<PickleValue>, Dict, Object, PickleValue, PickleTensor>;

  static std::shared_ptr<PickleNode> Make(Kind kind, Content content);
  static PickleValue Value(std::shared_ptr<PickleNode> node) {
    return PickleValue(std::move(node));
  }
  static PickleValue BackReference();
  // Null for None, bool, int and float.
  static PickleNode* Of(const PickleValue& value) { return value.node_.get(); }

  // The i-th value inside, null after the last.
  PickleValue* Child(size_t i);

  Kind kind;
  Content content;
};

// A handle of every node reachable from `root`, inner ones first. References back to an enclosing
// container are replaced by kBackReference.
std::vector<PickleValue> NodesInnerFirst(const PickleValue& root);

}  // namespace albef

#endif  // ALBEF_FORMATS_PICKLE_NODE_H_
