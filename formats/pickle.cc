#include "formats/pickle.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "common/status_macros.h"
#include "formats/pickle_node.h"
#include "formats/pickle_opcodes.h"

namespace albef {
namespace {

using Kind = PickleValue::Kind;
using Values = std::vector<PickleValue>;

constexpr int kMaxProtocol = 5;
constexpr size_t kMaxGlobalBytes = 1024;
// Hashed again whenever a pickle refers to them.
constexpr size_t kMaxKeyBytes = 64 << 10;
// Decimal conversion takes quadratic time.
constexpr size_t kMaxIntegerBytes = 1024;

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

void AppendUtf8(uint32_t code_point, std::string& text) {
  const auto put = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | code_point >> 6);
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18 & 0x07));
    put(0x80 | (code_point >> 12 & 0x3f));
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

// Replaces escapes of a backslash and one of `kinds`: 'u' and 'U' stand for 4 and 8 hex digits of a
// code point, 'x' for 2 of a byte, other letters for what they mean in Python. A backslash before
// anything else is kept if `keep_unknown`, as raw-unicode-escape does.
struct Escapes {
  std::string_view kinds;
  bool keep_unknown;
  bool latin1;  // other bytes are code points
};

std::optional<std::string> Unescape(std::string_view raw, const Escapes& escapes) {
  std::string text;
  const auto put = [&](char c) {
    if (escapes.latin1) {
      AppendUtf8(static_cast<unsigned char>(c), text);
    } else {
      text.push_back(c);
    }
  };
  for (size_t i = 0; i < raw.size(); ++i) {
    const char kind = raw[i] == '\\' && i + 1 < raw.size() ? raw[i + 1] : '\0';
    if (raw[i] != '\\' || escapes.kinds.find(kind) == std::string_view::npos) {
      if (raw[i] == '\\' && !escapes.keep_unknown) return std::nullopt;
      put(raw[i]);
      continue;
    }
    ++i;
    const size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    if (digits == 0) {
      put(kind == 'n' ? '\n' : kind == 'r' ? '\r' : kind == 't' ? '\t' : kind);
      continue;
    }
    if (raw.size() - i <= digits) return std::nullopt;
    uint32_t code = 0;
    const char* end = raw.data() + i + 1 + digits;
    const auto [stop, error] = std::from_chars(raw.data() + i + 1, end, code, 16);
    if (stop != end || error != std::errc() || code > 0x10ffff) return std::nullopt;
    i += digits;
    if (kind == 'x') {
      put(static_cast<char>(code));
    } else {
      AppendUtf8(code, text);
    }
  }
  return text;
}

// Of a little-endian two's complement number.
std::string Decimal(std::string_view bytes) {
  const bool negative = (bytes.back() & 0x80) != 0;
  std::vector<uint32_t> words((bytes.size() + 3) / 4, negative ? ~uint32_t{0} : 0);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  if (negative) {
    uint64_t carry = 1;
    for (uint32_t& word : words) {
      carry += static_cast<uint32_t>(~word);
      word = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
  }
  std::string digits;  // last first
  while (!words.empty()) {
    uint64_t rest = 0;
    for (size_t i = words.size(); i-- > 0;) {
      rest = rest << 32 | words[i];
      words[i] = static_cast<uint32_t>(rest / 1'000'000'000);
      rest %= 1'000'000'000;
    }
    while (!words.empty() && words.back() == 0) words.pop_back();
    for (int i = 0; i < 9 && (rest != 0 || !words.empty()); ++i, rest /= 10) {
      digits.push_back(static_cast<char>('0' + rest % 10));
    }
  }
  if (negative) digits.push_back('-');
  std::ranges::reverse(digits);
  return digits;
}

// The modules that Python 2 named differently.
std::string_view CurrentModule(std::string_view module) {
  if (module == "__builtin__") return "builtins";
  if (module == "copy_reg") return "copyreg";
  return module;
}

class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, std::string_view name, const PickleLimits& limits)
      : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
        name_(name),
        limits_(limits) {}

  // What is not part of the result may be cyclic, which would leak, or so deep that destroying it
  // by recursion would overflow the stack: take it apart node by node.
  ~PickleMachine() {
    for (const auto& node : containers_) {
      if (!kept_.contains(node.get())) node->content = std::string();
    }
  }

  absl::StatusOr<Pickle> Run() {
    while (true) {
      opcode_offset_ = position_;
      if (position_ == bytes_.size()) return Error("the pickle is truncated");
      opcode_ = static_cast<PickleOpcode>(bytes_[position_++]);
      RETURN_IF_ERROR(Spend(1));
      if (opcode_ == PickleOpcode::STOP) return Finish();
      RETURN_IF_ERROR(Step());
    }
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format(
        "{}: pickle opcode {} (0x{:02x}) at byte {}: {}", name_, PickleOpcodeName(opcode_),
        static_cast<uint8_t>(opcode_), opcode_offset_, what));
  }

  absl::Status Spend(size_t steps) {
    if (steps > limits_.max_steps - steps_) {
      return Error(fmt::format("more than {} steps of work", limits_.max_steps));
    }
    steps_ += steps;
    return absl::OkStatus();
  }

  // Input.

  absl::StatusOr<std::string_view> Take(uint64_t size) {
    const size_t left = bytes_.size() - position_;
    if (size > left) {
      return Error(fmt::format("its {} bytes do not fit in the {} that are left", size, left));
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
    if (end == std::string_view::npos) return Error("its line does not end");
    const std::string_view line = bytes_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }

  // Stack.

  absl::Status Push(PickleValue value) {
    stack_.push_back(std::move(value));
    return absl::OkStatus();
  }

  absl::Status PushNode(Kind kind, PickleNode::Content content) {
    std::shared_ptr<PickleNode> node = PickleNode::Make(kind, std::move(content));
    if (kind != Kind::kString && kind != Kind::kBytes) containers_.push_back(node);
    return Push(PickleNode::Value(std::move(node)));
  }

  absl::Status Require(size_t count) const {
    const size_t fence = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - fence < count) return Error("the stack does not hold what it needs");
    return absl::OkStatus();
  }

  absl::StatusOr<PickleValue> Pop() {
    RETURN_IF_ERROR(Require(1));
    PickleValue value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }

  absl::StatusOr<Values> PopLast(size_t count) {
    RETURN_IF_ERROR(Require(count));
    const auto begin = stack_.end() - static_cast<std::ptrdiff_t>(count);
    Values values(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    return values;
  }

  absl::StatusOr<Values> PopToMark() {
    if (marks_.empty()) return Error("there is no mark");
    ASSIGN_OR_RETURN(Values values, PopLast(stack_.size() - marks_.back()));
    marks_.pop_back();
    return values;
  }

  absl::StatusOr<PickleNode*> Top() {
    RETURN_IF_ERROR(Require(1));
    return PickleNode::Of(stack_.back());
  }

  // Memo.

  absl::Status Put(uint64_t index) {
    RETURN_IF_ERROR(Require(1));
    memo_.insert_or_assign(index, stack_.back());
    return absl::OkStatus();
  }

  absl::Status Get(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) return Error(fmt::format("memo {} was never stored", index));
    return Push(found->second);
  }

  absl::StatusOr<uint64_t> TakeMemoLine() {
    ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
    uint64_t index = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), index);
    if (error != std::errc() || end != line.data() + line.size()) {
      return Error("its memo index is not a number");
    }
    return index;
  }

  // Scalars and text.

  absl::Status PushString(std::string text) {
    if (!IsUtf8(text)) return Error("its text is not valid UTF-8");
    return PushNode(Kind::kString, std::move(text));
  }

  // Python 2's str holds text as well as bytes.
  absl::Status PushPython2String(std::string text) {
    const Kind kind = IsUtf8(text) ? Kind::kString : Kind::kBytes;
    return PushNode(kind, std::move(text));
  }

  absl::Status PushQuoted(std::string_view line) {
    if (line.size() < 2 || line.front() != line.back() ||
        (line.front() != '\'' && line.front() != '"')) {
      return Error("its text is not quoted");
    }
    std::optional<std::string> text =
        Unescape(line.substr(1, line.size() - 2),
                 {.kinds = "\\'\"nrtx", .keep_unknown = false, .latin1 = false});
    if (!text.has_value()) return Error("its text has an escape that Python 2 does not write");
    return PushPython2String(*std::move(text));
  }

  absl::Status PushRawUnicode(std::string_view line) {
    std::optional<std::string> text =
        Unescape(line, {.kinds = "uU", .keep_unknown = true, .latin1 = true});
    if (!text.has_value()) return Error("its text has a malformed escape");
    return PushString(*std::move(text));
  }

  absl::Status PushLong(std::string_view bytes) {
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
      return PushNode(Kind::kBigInt, Decimal(bytes));
    }
    int64_t value = !bytes.empty() && sign(bytes.back()) != 0 ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return Push(value);
  }

  absl::Status PushDecimal(std::string_view line) {
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

  absl::Status PushFloat(std::string_view line) {
    double value = 0;
    const char* const end = line.data() + line.size();
    const auto [stop, error] = std::from_chars(line.data(), end, value);
    if (stop != end || error != std::errc()) return Error("it is not a number");
    return Push(value);
  }

  // Containers.

  absl::Status AddItems(Values values, PickleNode::Items& items) {
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
        return Error(kind == Kind::kInt ? fmt::format("key {} is given twice", *values[i].AsInt())
                                        : fmt::format("key {:?} is given twice", values[i].text()));
      }
    }
    return absl::OkStatus();
  }

  absl::Status SetItems(Values values) {
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

  absl::Status Append(Values values) {
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

  absl::Status PushDict(Values values) {
    PickleNode::Dict dict;
    RETURN_IF_ERROR(AddItems(std::move(values), dict.items));
    return PushNode(Kind::kDict, std::move(dict));
  }

  // Classes and what would be calls.

  absl::Status PushGlobal(std::string_view module, std::string_view name) {
    if (module.empty() || name.empty() || module.size() + name.size() > kMaxGlobalBytes ||
        !IsUtf8(module) || !IsUtf8(name)) {
      return Error("the name of a class or function is empty, too long or not UTF-8");
    }
    std::string full = fmt::format("{}.{}", CurrentModule(module), name);
    globals_.insert(full);
    return PushNode(Kind::kGlobal, std::move(full));
  }

  absl::Status PushInertObject(PickleValue callable, PickleValue args, PickleValue keyword_args) {
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

  absl::Status Construct(PickleValue callable, PickleValue args) {
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
        if (std::optional<std::string> bytes = Latin1(given[0].text())) {
          return PushNode(Kind::kBytes, *std::move(bytes));
        }
      }
    }
    return PushInertObject(std::move(callable), std::move(args), {});
  }

  absl::Status Build(PickleValue state) {
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

  absl::Status Step();
  absl::StatusOr<Pickle> Finish();

  // The keys and values of OrderedDict's argument, a list of pairs; nothing if it is another thing
  // or too long to copy.
  std::optional<Values> Flatten(std::span<const PickleValue> given) const {
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

  static std::optional<std::string> Latin1(std::string_view utf8) {
    std::string bytes;
    for (size_t i = 0; i < utf8.size(); ++i) {
      const auto c = static_cast<unsigned char>(utf8[i]);
      if (c < 0x80) {
        bytes.push_back(utf8[i]);
      } else if (c == 0xc2 || c == 0xc3) {  // U+0080 to U+00FF; the text is valid UTF-8
        bytes.push_back(static_cast<char>((c & 0x03) << 6 | (utf8[++i] & 0x3f)));
      } else {
        return std::nullopt;
      }
    }
    return bytes;
  }

  const std::string_view bytes_;
  const std::string_view name_;
  const PickleLimits limits_;
  size_t position_ = 0;
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

absl::Status PickleMachine::Step() {
  using enum PickleOpcode;
  switch (opcode_) {
    case PROTO: {
      ASSIGN_OR_RETURN(const uint64_t protocol, TakeUnsigned(1));
      if (protocol > kMaxProtocol) {
        return Error(
            fmt::format("protocol {}; protocols up to {} are supported", protocol, kMaxProtocol));
      }
      return absl::OkStatus();
    }
    case FRAME: {
      ASSIGN_OR_RETURN(const uint64_t size, TakeUnsigned(8));
      if (size > bytes_.size() - position_) return Error("its frame is longer than the file");
      return absl::OkStatus();
    }

    case NONE:
      return Push({});
    case NEWTRUE:
      return Push(true);
    case NEWFALSE:
      return Push(false);
    case BININT: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(4));
      return Push(static_cast<int32_t>(static_cast<uint32_t>(value)));
    }
    case BININT1: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(1));
      return Push(value);
    }
    case BININT2: {
      ASSIGN_OR_RETURN(const uint64_t value, TakeUnsigned(2));
      return Push(value);
    }
    case LONG1: {
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(1));
      return PushLong(bytes);
    }
    case LONG4: {
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(4));
      return PushLong(bytes);
    }
    case INT:
    case LONG: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return PushDecimal(line);
    }
    case FLOAT: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return PushFloat(line);
    }
    case BINFLOAT: {
      ASSIGN_OR_RETURN(const uint64_t big_endian, TakeUnsigned(8));
      return Push(std::bit_cast<double>(__builtin_bswap64(big_endian)));
    }

    case STRING: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return PushQuoted(line);
    }
    case SHORT_BINSTRING:
    case BINSTRING: {
      ASSIGN_OR_RETURN(const std::string_view text, TakeCounted(opcode_ == BINSTRING ? 4 : 1));
      return PushPython2String(std::string(text));
    }
    case UNICODE: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      return PushRawUnicode(line);
    }
    case SHORT_BINUNICODE:
    case BINUNICODE:
    case BINUNICODE8: {
      const size_t width = opcode_ == SHORT_BINUNICODE ? 1 : opcode_ == BINUNICODE ? 4 : 8;
      ASSIGN_OR_RETURN(const std::string_view text, TakeCounted(width));
      return PushString(std::string(text));
    }
    case SHORT_BINBYTES:
    case BINBYTES:
    case BINBYTES8:
    case BYTEARRAY8: {
      const size_t width = opcode_ == SHORT_BINBYTES ? 1 : opcode_ == BINBYTES ? 4 : 8;
      ASSIGN_OR_RETURN(const std::string_view bytes, TakeCounted(width));
      return PushNode(Kind::kBytes, std::string(bytes));
    }

    case MARK:
      marks_.push_back(stack_.size());
      return absl::OkStatus();
    case POP:
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
        return absl::OkStatus();
      }
      return Pop().status();
    case POP_MARK:
      return PopToMark().status();
    case DUP:
      RETURN_IF_ERROR(Require(1));
      return Push(PickleValue(stack_.back()));

    case PUT: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeMemoLine());
      return Put(index);
    }
    case BINPUT:
    case LONG_BINPUT: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeUnsigned(opcode_ == BINPUT ? 1 : 4));
      return Put(index);
    }
    case MEMOIZE:
      return Put(memo_.size());
    case GET: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeMemoLine());
      return Get(index);
    }
    case BINGET:
    case LONG_BINGET: {
      ASSIGN_OR_RETURN(const uint64_t index, TakeUnsigned(opcode_ == BINGET ? 1 : 4));
      return Get(index);
    }

    case EMPTY_LIST:
      return PushNode(Kind::kList, Values());
    case EMPTY_TUPLE:
      return PushNode(Kind::kTuple, Values());
    case EMPTY_SET:
      return PushNode(Kind::kSet, Values());
    case EMPTY_DICT:
      return PushDict({});
    case LIST:
    case TUPLE:
    case FROZENSET: {
      ASSIGN_OR_RETURN(Values values, PopToMark());
      const Kind kind = opcode_ == LIST    ? Kind::kList
                        : opcode_ == TUPLE ? Kind::kTuple
                                           : Kind::kSet;
      return PushNode(kind, std::move(values));
    }
    case TUPLE1:
    case TUPLE2:
    case TUPLE3: {
      ASSIGN_OR_RETURN(Values values, PopLast(opcode_ == TUPLE1 ? 1 : opcode_ == TUPLE2 ? 2 : 3));
      return PushNode(Kind::kTuple, std::move(values));
    }
    case DICT: {
      ASSIGN_OR_RETURN(Values values, PopToMark());
      return PushDict(std::move(values));
    }
    case APPEND: {
      ASSIGN_OR_RETURN(Values values, PopLast(1));
      return Append(std::move(values));
    }
    case APPENDS:
    case ADDITEMS: {
      ASSIGN_OR_RETURN(Values values, PopToMark());
      return Append(std::move(values));
    }
    case SETITEM: {
      ASSIGN_OR_RETURN(Values values, PopLast(2));
      return SetItems(std::move(values));
    }
    case SETITEMS: {
      ASSIGN_OR_RETURN(Values values, PopToMark());
      return SetItems(std::move(values));
    }

    case GLOBAL: {
      ASSIGN_OR_RETURN(const std::string_view module, TakeLine());
      ASSIGN_OR_RETURN(const std::string_view name, TakeLine());
      return PushGlobal(module, name);
    }
    case STACK_GLOBAL: {
      ASSIGN_OR_RETURN(const Values names, PopLast(2));
      if (names[0].kind() != Kind::kString || names[1].kind() != Kind::kString) {
        return Error("the name of a class or function is not a string");
      }
      return PushGlobal(names[0].text(), names[1].text());
    }
    case PERSID: {
      ASSIGN_OR_RETURN(const std::string_view line, TakeLine());
      RETURN_IF_ERROR(PushString(std::string(line)));
      ASSIGN_OR_RETURN(PickleValue id, Pop());
      return PushNode(Kind::kPersistentId, std::move(id));
    }
    case BINPERSID: {
      ASSIGN_OR_RETURN(PickleValue id, Pop());
      return PushNode(Kind::kPersistentId, std::move(id));
    }
    case REDUCE:
    case NEWOBJ: {
      ASSIGN_OR_RETURN(Values values, PopLast(2));
      return Construct(std::move(values[0]), std::move(values[1]));
    }
    case NEWOBJ_EX: {
      ASSIGN_OR_RETURN(Values values, PopLast(3));
      return PushInertObject(std::move(values[0]), std::move(values[1]), std::move(values[2]));
    }
    case INST: {
      ASSIGN_OR_RETURN(const std::string_view module, TakeLine());
      ASSIGN_OR_RETURN(const std::string_view name, TakeLine());
      ASSIGN_OR_RETURN(Values args, PopToMark());
      RETURN_IF_ERROR(PushGlobal(module, name));
      RETURN_IF_ERROR(PushNode(Kind::kTuple, std::move(args)));
      ASSIGN_OR_RETURN(Values call, PopLast(2));
      return Construct(std::move(call[0]), std::move(call[1]));
    }
    case OBJ: {
      ASSIGN_OR_RETURN(Values values, PopToMark());
      if (values.empty()) return Error("the stack does not hold what it needs");
      PickleValue callable = std::move(values.front());
      values.erase(values.begin());
      RETURN_IF_ERROR(PushNode(Kind::kTuple, std::move(values)));
      ASSIGN_OR_RETURN(PickleValue args, Pop());
      return Construct(std::move(callable), std::move(args));
    }
    case BUILD: {
      ASSIGN_OR_RETURN(PickleValue state, Pop());
      return Build(std::move(state));
    }

    case EXT1:
    case EXT2:
    case EXT4:
    case NEXT_BUFFER:
    case READONLY_BUFFER:
      return Error("not supported: what it refers to is not in the pickle");
    case STOP:
      break;
  }
  return Error("not an opcode: the file is damaged or not a pickle");
}

absl::StatusOr<Pickle> PickleMachine::Finish() {
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
  return Pickle{.root = std::move(root), .globals = std::move(globals_), .bytes = position_};
}

}  // namespace

absl::StatusOr<Pickle> ParsePickle(std::span<const std::byte> bytes, std::string_view name,
                                   const PickleLimits& limits) {
  return PickleMachine(bytes, name, limits).Run();
}

}  // namespace albef
