// The stack machine behind ParsePickle: what opcodes do to stack, memo and values. Which opcode
// does what, and with which operands, is pickle.cc's. Private to pickle*.cc.
//
// Errors are INVALID_ARGUMENT and name the file, the opcode and its offset.
#ifndef ALBEF_FORMATS_PICKLE_MACHINE_H_
#define ALBEF_FORMATS_PICKLE_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/pickle.h"
#include "formats/pickle_node.h"
#include "formats/pickle_opcodes.h"
#include "formats/pickle_value.h"

namespace albef {

// For one pickle. Not thread-safe; `name` must outlive it.
class PickleMachine {
 public:
  using Kind = PickleValue::Kind;
  using Values = std::vector<PickleValue>;

  // `name` is what errors call the file.
  PickleMachine(std::string_view name, const PickleLimits& limits) : name_(name), limits_(limits) {}
  ~PickleMachine();
  PickleMachine(const PickleMachine&) = delete;
  PickleMachine& operator=(const PickleMachine&) = delete;

  // The opcode that begins, for errors.
  void Begin(PickleOpcode opcode, size_t offset) {
    opcode_ = opcode;
    opcode_offset_ = offset;
  }
  absl::Status Error(std::string_view what) const;
  // Counts work against the limit.
  absl::Status Spend(size_t steps);

  // Stack. Nothing is popped from below the last mark.
  absl::Status Push(PickleValue value);
  absl::Status PushNode(Kind kind, PickleNode::Content content);
  absl::Status Duplicate();
  absl::StatusOr<PickleValue> Pop();
  absl::StatusOr<Values> PopLast(size_t count);
  void Mark() { marks_.push_back(stack_.size()); }
  absl::StatusOr<Values> PopToMark();
  // The last value, or a mark that nothing is above.
  absl::Status Drop();

  // Memo.
  absl::Status Put(uint64_t index);
  absl::Status Memoize() { return Put(memo_.size()); }
  absl::Status Get(uint64_t index);

  // Scalars and text, from how the pickle writes them.
  absl::Status PushString(std::string text);
  absl::Status PushPython2String(std::string text);
  absl::Status PushQuoted(std::string_view line);
  absl::Status PushRawUnicode(std::string_view line);
  absl::Status PushLong(std::string_view bytes);
  absl::Status PushDecimal(std::string_view line);
  absl::Status PushFloat(std::string_view line);

  // Containers; what is added goes to the one on top of the stack.
  absl::Status PushDict(Values values);
  absl::Status SetItems(Values values);
  absl::Status Append(Values values);

  // Classes and what would be calls.
  absl::Status PushGlobal(std::string_view module, std::string_view name);
  absl::Status PushInertObject(PickleValue callable, PickleValue args, PickleValue keyword_args);
  absl::Status Construct(PickleValue callable, PickleValue args);
  absl::Status Build(PickleValue state);

  // The value on top of the stack as the result of a pickle of `bytes` bytes. The last call.
  absl::StatusOr<Pickle> Finish(size_t bytes);

 private:
  absl::Status Require(size_t count) const;
  absl::StatusOr<PickleNode*> Top();
  absl::Status AddItems(Values values, PickleNode::Items& items);
  std::optional<Values> Flatten(std::span<const PickleValue> given) const;

  const std::string_view name_;
  const PickleLimits limits_;
  size_t steps_ = 0;
  PickleOpcode opcode_ = PickleOpcode::STOP;  // the one being executed, and where it is
  size_t opcode_offset_ = 0;
  Values stack_;
  std::vector<size_t> marks_;  // stack sizes
  std::map<uint64_t, PickleValue> memo_;
  std::set<std::string, std::less<>> globals_;
  std::vector<std::shared_ptr<PickleNode>> containers_;
  absl::flat_hash_set<const PickleNode*> kept_;
};

}  // namespace albef

#endif  // ALBEF_FORMATS_PICKLE_MACHINE_H_
