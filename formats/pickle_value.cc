#include "formats/pickle_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/status_macros.h"
#include "formats/pickle_node.h"
#include "formats/utf8.h"

namespace albef {
namespace {

using Kind = PickleValue::Kind;

const PickleValue kNoneValue;

// Null for what has no items.
const PickleNode::Items* ItemsOf(const PickleNode* node) {
  if (node == nullptr) return nullptr;
  if (const auto* dict = std::get_if<PickleNode::Dict>(&node->content)) return &dict->items;
  const auto* object = std::get_if<PickleNode::Object>(&node->content);
  return object != nullptr ? &object->items : nullptr;
}

absl::StatusOr<PickleValue> FindKey(const PickleValue& value, const PickleNode::KeyRef& key,
                                    std::string_view shown_key) {
  const PickleNode::Items* items = ItemsOf(PickleNode::Of(value));
  if (items == nullptr) return value.Expect(Kind::kDict);
  if (const auto found = items->index.find(key); found != items->index.end()) {
    return items->list[found->second].second;
  }
  constexpr size_t kMaxShown = 8;
  std::string present;
  for (size_t i = 0; i < std::min(items->list.size(), kMaxShown); ++i) {
    const PickleValue& other = items->list[i].first;
    present += i == 0 ? "" : ", ";
    present +=
        other.kind() == Kind::kInt ? fmt::format("{}", *other.AsInt()) : Quoted(other.text());
  }
  return absl::NotFoundError(fmt::format("no key {} among the {} there are ({}{})", shown_key,
                                         items->list.size(), present,
                                         items->list.size() > kMaxShown ? ", …" : ""));
}

}  // namespace

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kBigInt:
      return "int beyond 64 bits";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kBytes:
      return "bytes";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kSet:
      return "set";
    case Kind::kDict:
      return "dict";
    case Kind::kTensor:
      return "tensor";
    case Kind::kGlobal:
      return "class or function";
    case Kind::kObject:
      return "object";
    case Kind::kPersistentId:
      return "persistent id";
    case Kind::kBackReference:
      return "reference back to an enclosing container";
  }
  return "unknown";
}

bool PickleNode::Items::Add(PickleValue key, PickleValue value) {
  std::optional<KeyRef> ref;
  if (key.kind() == Kind::kString) ref = key.text();
  if (key.kind() == Kind::kInt) ref = *key.AsInt();
  const bool added = !ref.has_value() || index.emplace(*ref, list.size()).second;
  list.emplace_back(std::move(key), std::move(value));
  return added;
}

std::shared_ptr<PickleNode> PickleNode::Make(Kind kind, Content content) {
  return std::make_shared<PickleNode>(PickleNode{kind, std::move(content)});
}

PickleValue PickleNode::BackReference() {
  PickleValue value;
  value.kind_ = Kind::kBackReference;
  return value;
}

PickleValue* PickleNode::Child(size_t i) {
  const auto item = [&i](Items& items) -> PickleValue* {
    if (i / 2 >= items.list.size()) {
      i -= 2 * items.list.size();
      return nullptr;
    }
    PickleValue::Item& pair = items.list[i / 2];
    return i % 2 == 0 ? &pair.first : &pair.second;
  };
  if (auto* elements = std::get_if<std::vector<PickleValue>>(&content)) {
    return i < elements->size() ? &(*elements)[i] : nullptr;
  }
  if (auto* dict = std::get_if<Dict>(&content)) {
    if (PickleValue* child = item(dict->items)) return child;
    return i == 0 ? &dict->attributes : nullptr;
  }
  if (auto* object = std::get_if<Object>(&content)) {
    if (PickleValue* child = item(object->items)) return child;
    if (i < object->appended.size()) return &object->appended[i];
    const std::array rest = {&object->callable, &object->args, &object->keyword_args,
                             &object->state};
    i -= object->appended.size();
    return i < rest.size() ? rest[i] : nullptr;
  }
  if (auto* value = std::get_if<PickleValue>(&content)) return i == 0 ? value : nullptr;
  return nullptr;
}

std::vector<PickleValue> NodesInnerFirst(const PickleValue& root) {
  std::vector<PickleValue> finished;
  if (PickleNode::Of(root) == nullptr) return finished;
  struct Visit {
    PickleValue value;
    size_t next_child;
  };
  std::vector<Visit> path = {{root, 0}};
  absl::flat_hash_map<PickleNode*, bool> on_path = {{PickleNode::Of(root), true}};
  while (!path.empty()) {
    Visit& visit = path.back();
    PickleNode* node = PickleNode::Of(visit.value);
    PickleValue* child = node->Child(visit.next_child++);
    if (child == nullptr) {
      on_path[node] = false;
      finished.push_back(std::move(visit.value));
      path.pop_back();
      continue;
    }
    PickleNode* inner = PickleNode::Of(*child);
    if (inner == nullptr) continue;
    const auto [place, is_new] = on_path.emplace(inner, true);
    if (is_new) {
      path.push_back({*child, 0});
    } else if (place->second) {
      *child = PickleNode::BackReference();
    }
  }
  return finished;
}

PickleValue::PickleValue(std::string value)
    : node_(PickleNode::Make(Kind::kString, std::move(value))) {}

PickleValue PickleValue::List(std::vector<PickleValue> elements) {
  return PickleValue(PickleNode::Make(Kind::kList, std::move(elements)));
}

PickleValue PickleValue::Tuple(std::vector<PickleValue> elements) {
  return PickleValue(PickleNode::Make(Kind::kTuple, std::move(elements)));
}

PickleValue PickleValue::Dict(std::vector<Item> items) {
  PickleNode::Dict dict;
  for (auto& [key, value] : items) dict.items.Add(std::move(key), std::move(value));
  return PickleValue(PickleNode::Make(Kind::kDict, std::move(dict)));
}

PickleValue PickleValue::OrderedDict(std::vector<Item> items) {
  return OrderedDict(std::move(items), PickleValue());
}

PickleValue PickleValue::OrderedDict(std::vector<Item> items, PickleValue attributes) {
  PickleValue value = Dict(std::move(items));
  auto& dict = std::get<PickleNode::Dict>(value.node_->content);
  dict.ordered = true;
  dict.attributes = std::move(attributes);
  return value;
}

PickleValue PickleValue::Tensor(PickleTensor tensor) {
  return PickleValue(PickleNode::Make(Kind::kTensor, std::move(tensor)));
}

Kind PickleValue::kind() const { return node_ != nullptr ? node_->kind : kind_; }

absl::Status PickleValue::Expect(Kind expected) const {
  if (kind() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("expected {}, found {}", KindName(expected), KindName(kind())));
}

absl::StatusOr<bool> PickleValue::AsBool() const {
  RETURN_IF_ERROR(Expect(Kind::kBool));
  return integer_ != 0;
}

absl::StatusOr<int64_t> PickleValue::AsInt() const {
  RETURN_IF_ERROR(Expect(Kind::kInt));
  return integer_;
}

absl::StatusOr<double> PickleValue::AsDouble() const {
  if (kind() == Kind::kInt) return static_cast<double>(integer_);
  RETURN_IF_ERROR(Expect(Kind::kFloat));
  return number_;
}

absl::StatusOr<std::string_view> PickleValue::AsString() const {
  RETURN_IF_ERROR(Expect(Kind::kString));
  return text();
}

absl::StatusOr<const PickleTensor*> PickleValue::AsTensor() const {
  RETURN_IF_ERROR(Expect(Kind::kTensor));
  return &std::get<PickleTensor>(node_->content);
}

std::string_view PickleValue::text() const {
  const auto* text = node_ ? std::get_if<std::string>(&node_->content) : nullptr;
  return text != nullptr ? *text : std::string_view();
}

std::span<const PickleValue> PickleValue::elements() const {
  if (node_ == nullptr) return {};
  if (const auto* elements = std::get_if<std::vector<PickleValue>>(&node_->content)) {
    return *elements;
  }
  const auto* object = std::get_if<PickleNode::Object>(&node_->content);
  return object != nullptr ? std::span<const PickleValue>(object->appended)
                           : std::span<const PickleValue>();
}

std::span<const PickleValue::Item> PickleValue::items() const {
  const PickleNode::Items* items = ItemsOf(node_.get());
  return items != nullptr ? std::span<const Item>(items->list) : std::span<const Item>();
}

absl::StatusOr<PickleValue> PickleValue::Find(std::string_view key) const {
  return FindKey(*this, key, Quoted(key));
}

absl::StatusOr<PickleValue> PickleValue::Find(int64_t key) const {
  return FindKey(*this, key, fmt::format("{}", key));
}

bool PickleValue::Contains(std::string_view key) const {
  const PickleNode::Items* items = ItemsOf(node_.get());
  return items != nullptr && items->index.contains(PickleNode::KeyRef(key));
}

bool PickleValue::is_ordered_dict() const {
  const auto* dict = node_ ? std::get_if<PickleNode::Dict>(&node_->content) : nullptr;
  return dict != nullptr && dict->ordered;
}

std::string_view PickleValue::class_name() const {
  if (kind() == Kind::kGlobal) return text();
  const auto* object = node_ ? std::get_if<PickleNode::Object>(&node_->content) : nullptr;
  // What a call returned may be called in turn; then it has no name.
  if (object == nullptr || object->callable.kind() != Kind::kGlobal) return {};
  return object->callable.text();
}

const PickleValue& PickleValue::args() const {
  if (node_ == nullptr) return kNoneValue;
  if (const auto* id = std::get_if<PickleValue>(&node_->content)) return *id;
  const auto* object = std::get_if<PickleNode::Object>(&node_->content);
  return object != nullptr ? object->args : kNoneValue;
}

const PickleValue& PickleValue::state() const {
  if (node_ == nullptr) return kNoneValue;
  if (const auto* dict = std::get_if<PickleNode::Dict>(&node_->content)) return dict->attributes;
  const auto* object = std::get_if<PickleNode::Object>(&node_->content);
  return object != nullptr ? object->state : kNoneValue;
}

absl::Status ReplaceObjects(
    const PickleValue& root,
    const std::function<absl::StatusOr<std::optional<PickleValue>>(const PickleValue& object)>&
        replace) {
  for (const PickleValue& value : NodesInnerFirst(root)) {
    if (value.kind() != Kind::kObject) continue;
    ASSIGN_OR_RETURN(const std::optional<PickleValue> replacement, replace(value));
    if (!replacement.has_value()) continue;
    const PickleNode* other = PickleNode::Of(*replacement);
    if (other == nullptr) {
      return absl::InternalError(
          fmt::format("an object cannot be replaced by {}", KindName(replacement->kind())));
    }
    // A copy first: the new content may be owned by the old.
    PickleNode::Content content = other->content;
    PickleNode* node = PickleNode::Of(value);
    node->kind = other->kind;
    node->content = std::move(content);
  }
  return absl::OkStatus();
}

}  // namespace albef
