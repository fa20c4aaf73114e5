#include "formats/pickle_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "common/status_macros.h"
#include "formats/pickle_text.h"
#include "formats/utf8.h"

namespace albef {
namespace {

constexpr size_t kMaxGlobalBytes = 1024;
// Hashed again whenever a pickle refers to them.
constexpr size_t kMaxKeyBytes = 64 << 10;
// Decimal conversion takes quadratic time.
constexpr size_t kMaxIntegerBytes = 1024;

// The modules that Python 2 named differently.
std::string_view CurrentModule(std::string_view module) {
  if (module == "__builtin__") return "builtins";
  if (module == "copy_reg") return "copyreg";
  return module;
}

}  // namespace

// What is not part of the result may be cyclic, which would leak, or so deep that destroying it
// by recursion would overflow the stack: take it apart node by node.
PickleMachine::~PickleMachine() {
  for (const auto& node : containers_) {
    if (!kept_.contains(node.get())) node->content = std::string();
  }
}

absl::Status PickleMachine::Error(std::string_view what) const {
  return absl::InvalidArgumentError(
      fmt::format("{}: pickle opcode {} (0x{:02x}) at byte {}: {}", name_,
                  PickleOpcodeName(opcode_), static_cast<uint8_t>(opcode_), opcode_offset_, what));
}

absl::Status PickleMachine::Spend(size_t steps) {
  if (steps > limits_.max_steps - steps_) {
    return Error(fmt::format("more than {} steps of work", limits_.max_steps));
  }
  steps_ += steps;
  return absl::OkStatus();
}

// ---- Stack ----

absl::Status PickleMachine::Push(PickleValue value) {
  stack_.push_back(std::move(value));
  return absl::OkStatus();
}

absl::Status PickleMachine::PushNode(Kind kind, PickleNode::Content content) {
  std::shared_ptr<PickleNode> node = PickleNode::Make(kind, std::move(content));
  if (kind != Kind::kString && kind != Kind::kBytes) containers_.push_back(node);
  return Push(PickleNode::Value(std::move(node)));
}

absl::Status PickleMachine::Duplicate() {
  RETURN_IF_ERROR(Require(1));
  return Push(PickleValue(stack_.back()));
}

absl::Status PickleMachine::Require(size_t count) const {
  const size_t fence = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() - fence < count) return Error("the stack does not hold what it needs");
  return absl::OkStatus();
}

absl::StatusOr<PickleValue> PickleMachine::Pop() {
  RETURN_IF_ERROR(Require(1));
  PickleValue value = std::move(stack_.back());
  stack_.pop_back();
  return value;
}

absl::StatusOr<PickleMachine::Values> PickleMachine::PopLast(size_t count) {
  RETURN_IF_ERROR(Require(count));
  const auto begin = stack_.end() - static_cast<std::ptrdiff_t>(count);
  Values values(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
  stack_.erase(begin, stack_.end());
  return values;
}

absl::StatusOr<PickleMachine::Values> PickleMachine::PopToMark() {
  if (marks_.empty()) return Error("there is no mark");
  ASSIGN_OR_RETURN(Values values, PopLast(stack_.size() - marks_.back()));
  marks_.pop_back();
  return values;
}

absl::Status PickleMachine::Drop() {
  if (!marks_.empty() && marks_.back() == stack_.size()) {
    marks_.pop_back();
    return absl::OkStatus();
  }
  return Pop().status();
}

absl::StatusOr<PickleNode*> PickleMachine::Top() {
  RETURN_IF_ERROR(Require(1));
  return PickleNode::Of(stack_.back());
}

// ---- Memo ----

absl::Status PickleMachine::Put(uint64_t index) {
  RETURN_IF_ERROR(Require(1));
  memo_.insert_or_assign(index, stack_.back());
  return absl::OkStatus();
}

absl::Status PickleMachine::Get(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) return Error(fmt::format("memo {} was never stored", index));
  return Push(found->second);
}

// ---- Scalars and text ----

absl::Status PickleMachine::PushString(std::string text) {
  if (!IsUtf8(text)) return Error("its text is not valid UTF-8");
  return PushNode(Kind::kString, std::move(text));
}

// Python 2's str holds text as well as bytes.
absl::Status PickleMachine::PushPython2String(std::string text) {
  const Kind kind = IsUtf8(text) ? Kind::kString : Kind::kBytes;
  return PushNode(kind, std::move(text));
}

absl::Status PickleMachine::PushQuoted(std::string_view line) {
  if (line.size() < 2 || line.front() != line.back() ||
      (line.front() != '\'' && line.front() != '"')) {
    return Error("its text is not quoted");
  }
  std::optional<std::string> text = UnescapePython2(line.substr(1, line.size() - 2));
  if (!text.has_value()) return Error("its text has an escape that Python 2 does not write");
  return PushPython2String(*std::move(text));
}

absl::Status PickleMachine::PushRawUnicode(std::string_view line) {
  std::optional<std::string> text = UnescapeRawUnicode(line);
  if (!text.has_value()) return Error("its text has a malformed escape");
  return PushString(*std::move(text));
}

absl::Status PickleMachine::PushLong(std::string_view bytes) {
  if (bytes.size() > kMaxIntegerBytes) {
    return Error(fmt::format("an integer of {} bytes; at most {} are supported", bytes.size(),
                             kMaxIntegerBytes));
  }
  const auto sign = [](char c) { return (c & 0x80) != 0 ? '\xff' : '\0'; };
  while (bytes.size() > sizeof(int64_t) && bytes.back() == sign(bytes[bytes.size() - 2])) {
    bytes.remove_suffix(1);
  }
  if (bytes.size() > sizeof(int64_t)) {
    RETURN_IF_ERROR(Spend(bytes.size()));
    return PushNode(Kind::kBigInt, DecimalFromTwosComplement(bytes));
  }
  int64_t value = !bytes.empty() && sign(bytes.back()) != 0 ? -1 : 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return Push(value);
}

absl::Status PickleMachine::PushDecimal(std::string_view line) {
  if (opcode_ == PickleOpcode::INT && (line == "00" || line == "01")) return Push(line == "01");
  if (opcode_ == PickleOpcode::LONG && line.ends_with('L')) line.remove_suffix(1);
  int64_t value = 0;
  const char* const end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) {
    return Error("it is not a decimal integer");
  }
  if (error == std::errc()) return Push(value);
  if (line.size() > 2 * kMaxIntegerBytes) return Error("the integer is too long");
  return PushNode(Kind::kBigInt, std::string(line));
}

absl::Status PickleMachine::PushFloat(std::string_view line) {
  double value = 0;
  const char* const end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data(), end, value);
  if (stop != end || error != std::errc()) return Error("it is not a number");
  return Push(value);
}

// ---- Containers ----

absl::Status PickleMachine::AddItems(Values values, PickleNode::Items& items) {
  if (values.size() % 2 != 0) return Error("a key without a value");
  for (size_t i = 0; i < values.size(); i += 2) {
    const Kind kind = values[i].kind();
    if (kind == Kind::kList || kind == Kind::kDict) {
      return Error(fmt::format("a {} cannot be a key", KindName(kind)));
    }
    if (values[i].text().size() > kMaxKeyBytes) {
      return Error(fmt::format("a key of more than {} bytes", kMaxKeyBytes));
    }
    if (!items.Add(values[i], std::move(values[i + 1]))) {
      return Error(kind == Kind::kInt
                       ? fmt::format("key {} is given twice", *values[i].AsInt())
                       : fmt::format("key {} is given twice", Quoted(values[i].text())));
    }
  }
  return absl::OkStatus();
}

absl::Status PickleMachine::SetItems(Values values) {
  ASSIGN_OR_RETURN(PickleNode* const target, Top());
  if (target != nullptr) {
    if (auto* dict = std::get_if<PickleNode::Dict>(&target->content)) {
      return AddItems(std::move(values), dict->items);
    }
    if (auto* object = std::get_if<PickleNode::Object>(&target->content)) {
      return AddItems(std::move(values), object->items);
    }
  }
  return Error(fmt::format("cannot set items of a {}", KindName(stack_.back().kind())));
}

absl::Status PickleMachine::Append(Values values) {
  ASSIGN_OR_RETURN(PickleNode* const target, Top());
  const Kind sequence = opcode_ == PickleOpcode::ADDITEMS ? Kind::kSet : Kind::kList;
  Values* elements = nullptr;
  if (target != nullptr && target->kind == sequence) {
    elements = &std::get<Values>(target->content);
  } else if (target != nullptr && target->kind == Kind::kObject) {
    elements = &std::get<PickleNode::Object>(target->content).appended;
  } else {
    return Error(fmt::format("cannot add elements to a {}", KindName(stack_.back().kind())));
  }
  elements->insert(elements->end(), std::make_move_iterator(values.begin()),
                   std::make_move_iterator(values.end()));
  return absl::OkStatus();
}

absl::Status PickleMachine::PushDict(Values values) {
  PickleNode::Dict dict;
  RETURN_IF_ERROR(AddItems(std::move(values), dict.items));
  return PushNode(Kind::kDict, std::move(dict));
}

// ---- Classes and what would be calls ----

absl::Status PickleMachine::PushGlobal(std::string_view module, std::string_view name) {
  if (module.empty() || name.empty() || module.size() + name.size() > kMaxGlobalBytes ||
      !IsUtf8(module) || !IsUtf8(name)) {
    return Error("the name of a class or function is empty, too long or not UTF-8");
  }
  std::string full = fmt::format("{}.{}", CurrentModule(module), name);
  globals_.insert(full);
  return PushNode(Kind::kGlobal, std::move(full));
}

absl::Status PickleMachine::PushInertObject(PickleValue callable, PickleValue args,
                                            PickleValue keyword_args) {
  if (callable.kind() != Kind::kGlobal && callable.kind() != Kind::kObject) {
    return Error(fmt::format("cannot call a {}", KindName(callable.kind())));
  }
  if (args.kind() != Kind::kTuple) return Error("its arguments are not a tuple");
  return PushNode(Kind::kObject, PickleNode::Object{.callable = std::move(callable),
                                                    .args = std::move(args),
                                                    .keyword_args = std::move(keyword_args),
                                                    .state = {},
                                                    .appended = {},
                                                    .items = {}});
}

absl::Status PickleMachine::Construct(PickleValue callable, PickleValue args) {
  const std::span<const PickleValue> given =
      args.kind() == Kind::kTuple ? args.elements() : std::span<const PickleValue>();
  const std::string_view name = callable.class_name();
  if (callable.kind() == Kind::kGlobal && args.kind() == Kind::kTuple) {
    if (name == "collections.OrderedDict" && given.size() <= 1) {
      std::optional<Values> flat = Flatten(given);
      if (flat.has_value()) {
        RETURN_IF_ERROR(Spend(flat->size()));
        PickleNode::Dict dict;
        dict.ordered = true;
        RETURN_IF_ERROR(AddItems(*std::move(flat), dict.items));
        return PushNode(Kind::kDict, std::move(dict));
      }
    }
    if ((name == "builtins.set" || name == "builtins.frozenset") && given.size() == 1 &&
        given[0].kind() == Kind::kList) {
      RETURN_IF_ERROR(Spend(given[0].elements().size()));
      return PushNode(Kind::kSet, Values(given[0].elements().begin(), given[0].elements().end()));
    }
    // How protocols 0 to 2 write Python 3's bytes.
    if (name == "_codecs.encode" && given.size() == 2 && given[0].kind() == Kind::kString &&
        given[1].text() == "latin1") {
      RETURN_IF_ERROR(Spend(given[0].text().size()));
      if (std::optional<std::string> bytes = Latin1FromUtf8(given[0].text())) {
        return PushNode(Kind::kBytes, *std::move(bytes));
      }
    }
  }
  return PushInertObject(std::move(callable), std::move(args), {});
}

absl::Status PickleMachine::Build(PickleValue state) {
  ASSIGN_OR_RETURN(PickleNode* const target, Top());
  if (target != nullptr) {
    if (auto* object = std::get_if<PickleNode::Object>(&target->content)) {
      object->state = std::move(state);
      return absl::OkStatus();
    }
    auto* dict = std::get_if<PickleNode::Dict>(&target->content);
    if (dict != nullptr && dict->ordered) {
      dict->attributes = std::move(state);
      return absl::OkStatus();
    }
  }
  return Error(fmt::format("a {} has no state to set", KindName(stack_.back().kind())));
}

// The keys and values of OrderedDict's argument, a list of pairs; nothing if it is another thing
// or too long to copy.
std::optional<PickleMachine::Values> PickleMachine::Flatten(
    std::span<const PickleValue> given) const {
  Values flat;
  if (given.empty()) return flat;
  if (given[0].kind() != Kind::kList ||
      given[0].elements().size() > (limits_.max_steps - steps_) / 2) {
    return std::nullopt;
  }
  for (const PickleValue& pair : given[0].elements()) {
    if ((pair.kind() != Kind::kList && pair.kind() != Kind::kTuple) ||
        pair.elements().size() != 2) {
      return std::nullopt;
    }
    flat.insert(flat.end(), pair.elements().begin(), pair.elements().end());
  }
  return flat;
}

// ---- Result ----

absl::StatusOr<Pickle> PickleMachine::Finish(size_t bytes) {
  ASSIGN_OR_RETURN(PickleValue root, Pop());
  struct Extent {
    int height;
    size_t walk;
  };
  absl::flat_hash_map<const PickleNode*, Extent> extents;
  Extent deepest{0, 1};
  for (const PickleValue& value : NodesInnerFirst(root)) {
    PickleNode* node = PickleNode::Of(value);
    Extent extent{1, 1};
    for (size_t i = 0; PickleValue* child = node->Child(i); ++i) {
      const PickleNode* inner = PickleNode::Of(*child);
      const Extent below = inner != nullptr ? extents.at(inner) : Extent{0, 1};
      extent.height = std::max(extent.height, below.height + 1);
      extent.walk = std::min(extent.walk + below.walk, limits_.max_walk + 1);
    }
    if (extent.height > limits_.max_depth) {
      return Error(fmt::format("values are nested more than {} deep", limits_.max_depth));
    }
    deepest = extent;
    extents.emplace(node, extent);
  }
  if (deepest.walk > limits_.max_walk) {
    return Error(fmt::format("shared values make up more than {} in all", limits_.max_walk));
  }
  for (const auto& [node, extent] : extents) kept_.insert(node);
  return Pickle{.root = std::move(root), .globals = std::move(globals_), .bytes = bytes};
}

}  // namespace albef
