// What a Python pickle holds, as plain data: scalars, containers, tensors, and inert stand-ins for
// everything that Python would build by calling something.
//
// A PickleValue is a small handle; copies share the container they refer to. Values are acyclic,
// and what ParsePickle returns is of bounded depth, so recursion over it is safe. Immutable apart
// from ReplaceObjects; safe to read from any thread.
#ifndef ALBEF_FORMATS_PICKLE_VALUE_H_
#define ALBEF_FORMATS_PICKLE_VALUE_H_

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/tensor.h"

namespace albef {

struct PickleNode;

// A tensor inside a pickle. Tied tensors have the same storage key, offset and bytes.
struct PickleTensor {
  TensorView view;
  std::string storage_key;     // which storage of its file; empty for tensors made in memory
  int64_t storage_offset = 0;  // in elements
  bool requires_grad = false;
  std::shared_ptr<const std::vector<std::byte>> owned;  // what view.bytes refers to, if not a file
};

class PickleValue {
 public:
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kBigInt,  // beyond int64; kept as decimal digits
    kFloat,
    kString,
    kBytes,
    kList,
    kTuple,
    kSet,
    kDict,  // also an OrderedDict
    kTensor,
    kGlobal,         // a class or function, by name
    kObject,         // what calling a global would have made; nothing is called
    kPersistentId,   // a reference to something outside the pickle, such as a storage
    kBackReference,  // stands where a container refers to one that encloses it
  };
  using Item = std::pair<PickleValue, PickleValue>;

  PickleValue() = default;  // None
  // Implicit, so that literals read as in Python.
  PickleValue(bool value) : kind_(Kind::kBool), integer_(value ? 1 : 0) {}
  template <std::integral T>
  PickleValue(T value) : kind_(Kind::kInt), integer_(static_cast<int64_t>(value)) {}
  PickleValue(double value) : kind_(Kind::kFloat), number_(value) {}
  PickleValue(std::string value);
  PickleValue(std::string_view value) : PickleValue(std::string(value)) {}
  PickleValue(const char* value) : PickleValue(std::string(value)) {}

  static PickleValue List(std::vector<PickleValue> elements);
  static PickleValue Tuple(std::vector<PickleValue> elements);
  // Of equal keys the first can be looked up; WritePth refuses them.
  static PickleValue Dict(std::vector<Item> items);
  // `attributes` is a dict or None; a module's state_dict has `_metadata`.
  static PickleValue OrderedDict(std::vector<Item> items);
  static PickleValue OrderedDict(std::vector<Item> items, PickleValue attributes);
  static PickleValue Tensor(PickleTensor tensor);

  Kind kind() const;
  bool is_none() const { return kind() == Kind::kNone; }

  // INVALID_ARGUMENT says what was expected and what is there.
  absl::Status Expect(Kind expected) const;
  absl::StatusOr<bool> AsBool() const;
  absl::StatusOr<int64_t> AsInt() const;
  absl::StatusOr<double> AsDouble() const;            // also of an int
  absl::StatusOr<std::string_view> AsString() const;  // views live as long as the value
  absl::StatusOr<const PickleTensor*> AsTensor() const;

  // Text of a string, big integer or global ("collections.OrderedDict"), or raw bytes; else empty.
  std::string_view text() const;
  // Elements of a list, tuple or set, or what was appended to an object; else empty.
  std::span<const PickleValue> elements() const;
  // Items of a dict in insertion order, or what was set in an object; else empty.
  std::span<const Item> items() const;
  // The value of a str or int key of a dict or object. NOT_FOUND names the keys there are.
  absl::StatusOr<PickleValue> Find(std::string_view key) const;
  absl::StatusOr<PickleValue> Find(int64_t key) const;
  bool Contains(std::string_view key) const;

  bool is_ordered_dict() const;
  // Name of a global, or of what would have been called to make an object; else empty.
  std::string_view class_name() const;
  // The arguments of an object, or the id of a persistent id; else None.
  const PickleValue& args() const;
  // What BUILD would have set in an object or OrderedDict: usually a dict of attributes, or None.
  const PickleValue& state() const;

 private:
  friend struct PickleNode;

  explicit PickleValue(std::shared_ptr<PickleNode> node) : node_(std::move(node)) {}

  Kind kind_ = Kind::kNone;  // unless there is a node
  int64_t integer_ = 0;      // of a bool or int
  double number_ = 0;        // of a float
  std::shared_ptr<PickleNode> node_;
};

// "dict", "str" …, as Python calls it.
std::string_view KindName(PickleValue::Kind kind);

// Calls `replace` for every object in `root`, inner ones first, and puts what it returns in the
// object's place wherever that is referred to. Only containers and tensors can be put there.
absl::Status ReplaceObjects(
    const PickleValue& root,
    const std::function<absl::StatusOr<std::optional<PickleValue>>(const PickleValue& object)>&
        replace);

}  // namespace albef

#endif  // ALBEF_FORMATS_PICKLE_VALUE_H_
