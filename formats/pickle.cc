#include "formats/pickle.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cstring>
#include <utility>

#include "common/status_macros.h"
#include "formats/pickle_machine.h"
#include "formats/pickle_opcodes.h"

namespace albef {
namespace {

using Kind = PickleValue::Kind;
using Values = PickleMachine::Values;

constexpr int kMaxProtocol = 5;

// Reads opcodes with their operands and has the machine execute them.
class PickleDecoder {
 public:
  PickleDecoder(std::span<const std::byte> bytes, std::string_view name, const PickleLimits& limits)
      : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), machine_(name, limits) {}

  absl::StatusOr<Pickle> Run() {
    auto opcode = PickleOpcode::STOP;
    while (true) {
      const size_t offset = position_;
      if (position_ == bytes_.size()) {
        machine_.Begin(opcode, offset);
        return machine_.Error("the pickle is truncated");
      }
      opcode = static_cast<PickleOpcode>(bytes_[position_++]);
      machine_.Begin(opcode, offset);
      RETURN_IF_ERROR(machine_.Spend(1));
      if (opcode == PickleOpcode::STOP) return machine_.Finish(position_);
      RETURN_IF_ERROR(Step(opcode));
    }
  }

 private:
  absl::StatusOr<std::string_view> Take(uint64_t size) {
    const size_t left = bytes_.size() - position_;
    if (size > left) {
      return machine_.Error(
          fmt::format("its {} bytes do not fit in the {} that are left", size, left));
    }
    const std::string_view taken = bytes_.substr(position_, size);
    position_ += size;
    return taken;
  }

  absl::StatusOr<uint64_t> TakeUnsigned(size_t width) {
    ASSIGN_OR_RETURN(const std::string_view raw, Take(width));
    uint64_t value = 0;
    std::memcpy(&value, raw.data(), width);
    return value;
  }

  // Bytes preceded by their number.
  absl::StatusOr<std::string_view> TakeCounted(size_t width) {
    ASSIGN_OR_RETURN(const uint64_t size, TakeUnsigned(width));
    return Take(size);
  }

  absl::StatusOr<std::string_view> TakeLine() {
    const size_t end = bytes_.find('\n', position_);
    if (end == std::string_view::npos) return machine_.Error("its line does not end");
    const std::string_view line = bytes_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }

  absl::StatusOr<uint64_t> TakeMemoLine() {
    ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
    uint64_t index = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), index);
    if (error != std::errc() || end != line.data() + line.size()) {
      return machine_.Error("its memo index is not a number");
    }
    return index;
  }

  // Executes an opcode, its operands being next.
  absl::Status Step(PickleOpcode opcode);

  const std::string_view bytes_;
  size_t position_ = 0;
  PickleMachine machine_;
};

absl::Status PickleDecoder::Step(PickleOpcode opcode) {
  using enum PickleOpcode;
  switch (opcode) {
    case PROTO: {
      ASSIGN_OR_RETURN(const uint64_t protocol, TakeUnsigned(1));
      if (protocol > kMaxProtocol) {
        return machine_.Error(
            fmt::format("protocol {}; protocols up to {} are supported", protocol, kMaxProtocol));
      }
      return absl::OkStatus();
    }
    case FRAME: {
      ASSIGN_OR_RETURN(const uint64_t size, TakeUnsigned(8));
      if (size > bytes_.size() - position_) {
        return machine_.Error("its frame is longer than the file");
      }
      return absl::OkStatus();
    }

    case NONE:
      return machine_.Push({});
    case NEWTRUE:
      return machine_.Push(true);
    case NEWFALSE:
      return machine_.Push(false);
    case BININT: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(4));
      return machine_.Push(static_cast<int32_t>(static_cast<uint32_t>(value)));
    }
    case BININT1: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(1));
      return machine_.Push(value);
    }
    case BININT2: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(2));
      return machine_.Push(value);
    }
    case LONG1: {
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(1));
      return machine_.PushLong(bytes);
    }
    case LONG4: {
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(4));
      return machine_.PushLong(bytes);
    }
    case INT:
    case LONG: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return machine_.PushDecimal(line);
    }
    case FLOAT: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return machine_.PushFloat(line);
    }
    case BINFLOAT: {
      ASSIGN_OR_RETURN(const uint64_t big_endian, TakeUnsigned(8));
      return machine_.Push(std::bit_cast<double>(__builtin_bswap64(big_endian)));
    }

    case STRING: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return machine_.PushQuoted(line);
    }
    case SHORT_BINSTRING:
    case BINSTRING: {
      ASSIGN_OR_RETURN(const std::string_view text, TakeCounted(opcode == BINSTRING ? 4 : 1));
      return machine_.PushPython2String(std::string(text));
    }
    case UNICODE: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return machine_.PushRawUnicode(line);
    }
    case SHORT_BINUNICODE:
    case BINUNICODE:
    case BINUNICODE8: {
      const size_t width = opcode == SHORT_BINUNICODE ? 1 : opcode == BINUNICODE ? 4 : 8;
      ASSIGN_OR_RETURN(const std::string_view text, TakeCounted(width));
      return machine_.PushString(std::string(text));
    }
    case SHORT_BINBYTES:
    case BINBYTES:
    case BINBYTES8:
    case BYTEARRAY8: {
      const size_t width = opcode == SHORT_BINBYTES ? 1 : opcode == BINBYTES ? 4 : 8;
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(width));
      return machine_.PushNode(Kind::kBytes, std::string(bytes));
    }

    case MARK:
      machine_.Mark();
      return absl::OkStatus();
    case POP:
      return machine_.Drop();
    case POP_MARK:
      return machine_.PopToMark().status();
    case DUP:
      return machine_.Duplicate();

    case PUT: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeMemoLine());
      return machine_.Put(index);
    }
    case BINPUT:
    case LONG_BINPUT: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeUnsigned(opcode == BINPUT ? 1 : 4));
      return machine_.Put(index);
    }
    case MEMOIZE:
      return machine_.Memoize();
    case GET: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeMemoLine());
      return machine_.Get(index);
    }
    case BINGET:
    case LONG_BINGET: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeUnsigned(opcode == BINGET ? 1 : 4));
      return machine_.Get(index);
    }

    case EMPTY_LIST:
      return machine_.PushNode(Kind::kList, Values());
    case EMPTY_TUPLE:
      return machine_.PushNode(Kind::kTuple, Values());
    case EMPTY_SET:
      return machine_.PushNode(Kind::kSet, Values());
    case EMPTY_DICT:
      return machine_.PushDict({});
    case LIST:
    case TUPLE:
    case FROZENSET: {
      ASSIGN_OR_RETURN(Values values, machine_.PopToMark());
      const Kind kind = opcode == LIST ? Kind::kList : opcode == TUPLE ? Kind::kTuple : Kind::kSet;
      return machine_.PushNode(kind, std::move(values));
    }
    case TUPLE1:
    case TUPLE2:
    case TUPLE3: {
      ASSIGN_OR_RETURN(Values values, machine_.PopLast(opcode == TUPLE1   ? 1
                                                       : opcode == TUPLE2 ? 2
                                                                          : 3));
      return machine_.PushNode(Kind::kTuple, std::move(values));
    }
    case DICT: {
      ASSIGN_OR_RETURN(Values values, machine_.PopToMark());
      return machine_.PushDict(std::move(values));
    }
    case APPEND: {
      ASSIGN_OR_RETURN(Values values, machine_.PopLast(1));
      return machine_.Append(std::move(values));
    }
    case APPENDS:
    case ADDITEMS: {
      ASSIGN_OR_RETURN(Values values, machine_.PopToMark());
      return machine_.Append(std::move(values));
    }
    case SETITEM: {
      ASSIGN_OR_RETURN(Values values, machine_.PopLast(2));
      return machine_.SetItems(std::move(values));
    }
    case SETITEMS: {
      ASSIGN_OR_RETURN(Values values, machine_.PopToMark());
      return machine_.SetItems(std::move(values));
    }

    case GLOBAL: {
      ASSIGN_OR_RETURN(const std::string_view module, TakeLine());
      ASSIGN_OR_RETURN(const std::string_view name, TakeLine());
      return machine_.PushGlobal(module, name);
    }
    case STACK_GLOBAL: {
      ASSIGN_OR_RETURN(const Values names, machine_.PopLast(2));
      if (names[0].kind() != Kind::kString || names[1].kind() != Kind::kString) {
        return machine_.Error("the name of a class or function is not a string");
      }
      return machine_.PushGlobal(names[0].text(), names[1].text());
    }
    case PERSID: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      RETURN_IF_ERROR(machine_.PushString(std::string(line)));
      ASSIGN_OR_RETURN(PickleValue id, machine_.Pop());
      return machine_.PushNode(Kind::kPersistentId, std::move(id));
    }
    case BINPERSID: {
      ASSIGN_OR_RETURN(PickleValue id, machine_.Pop());
      return machine_.PushNode(Kind::kPersistentId, std::move(id));
    }
    case REDUCE:
    case NEWOBJ: {
      ASSIGN_OR_RETURN(Values values, machine_.PopLast(2));
      return machine_.Construct(std::move(values[0]), std::move(values[1]));
    }
    case NEWOBJ_EX: {
      ASSIGN_OR_RETURN(Values values, machine_.PopLast(3));
      return machine_.PushInertObject(std::move(values[0]), std::move(values[1]),
                                      std::move(values[2]));
    }
    case INST: {
      ASSIGN_OR_RETURN(const std::string_view module, TakeLine());
      ASSIGN_OR_RETURN(const std::string_view name, TakeLine());
      ASSIGN_OR_RETURN(Values args, machine_.PopToMark());
      RETURN_IF_ERROR(machine_.PushGlobal(module, name));
      RETURN_IF_ERROR(machine_.PushNode(Kind::kTuple, std::move(args)));
      ASSIGN_OR_RETURN(Values call, machine_.PopLast(2));
      return machine_.Construct(std::move(call[0]), std::move(call[1]));
    }
    case OBJ: {
      ASSIGN_OR_RETURN(Values values, machine_.PopToMark());
      if (values.empty()) return machine_.Error("the stack does not hold what it needs");
      PickleValue callable = std::move(values.front());
      values.erase(values.begin());
      RETURN_IF_ERROR(machine_.PushNode(Kind::kTuple, std::move(values)));
      ASSIGN_OR_RETURN(PickleValue args, machine_.Pop());
      return machine_.Construct(std::move(callable), std::move(args));
    }
    case BUILD: {
      ASSIGN_OR_RETURN(PickleValue state, machine_.Pop());
      return machine_.Build(std::move(state));
    }

    case EXT1:
    case EXT2:
    case EXT4:
    case NEXT_BUFFER:
    case READONLY_BUFFER:
      return machine_.Error("not supported: what it refers to is not in the pickle");
    case STOP:
      break;
  }
  return machine_.Error("not an opcode: the file is damaged or not a pickle");
}

}  // namespace

absl::StatusOr<Pickle> ParsePickle(std::span<const std::byte> bytes, std::string_view name,
                                   const PickleLimits& limits) {
  return PickleDecoder(bytes, name, limits).Run();
}

}  // namespace albef
