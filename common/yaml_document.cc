#include "common/yaml_document.h"

#include <fmt/format.h>
#include <simdjson.h>
#include <yaml-cpp/emitterstyle.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <sstream>

namespace albef {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxKeyBytes = 100;

// What the document may not contain; leaves the parser and is caught in Parse.
struct Refusal {
  std::string where;
  std::string message;
};

// Builds the tree from the parser's events, so that nothing is ever expanded: an alias is refused
// when it is met.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::shared_ptr<const std::string> source, bool has_lines)
      : source_(std::move(source)), has_lines_(has_lines) {}

  YamlNode TakeRoot() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    RefuseAnchor(mark, anchor);
    Add(Node(YamlNode::Kind::kNull, mark));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Refuse(mark, "aliases (*name) are not supported; write the value out");
  }

  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    Refuse(mark, fmt::format("anchors (&{}) are not supported; write values out", name));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    YamlNode node = Node(YamlNode::Kind::kScalar, mark);
    node.text = value;
    node.quoted = tag == "!";
    Add(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, tag, anchor, YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, tag, anchor, YamlNode::Kind::kMapping);
  }
  void OnMapEnd() override { Close(); }

 private:
  // A list or mapping that is being filled; of a mapping, the key that waits for its value.
  struct Level {
    YamlNode node;
    bool has_key = false;
    std::string key = {};
    int key_line = 0;
  };

  YamlNode Node(YamlNode::Kind kind, const YAML::Mark& mark) const {
    YamlNode node;
    node.kind = kind;
    node.source = source_;
    node.line = has_lines_ ? mark.line + 1 : 0;
    return node;
  }

  [[noreturn]] void Refuse(const YAML::Mark& mark, std::string message) const {
    throw Refusal{Node(YamlNode::Kind::kNull, mark).Where(), std::move(message)};
  }

  void RefuseAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) Refuse(mark, "anchors (&name) are not supported; write values out");
  }

  void RefuseTag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      Refuse(mark, fmt::format("tags ({}) are not supported", tag));
    }
  }

  void Open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YamlNode::Kind kind) {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    if (open_.size() == kMaxDepth) {
      Refuse(mark, fmt::format("nested more than {} levels deep", kMaxDepth));
    }
    open_.push_back({Node(kind, mark)});
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Add(std::move(node));
  }

  void Add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Level& level = open_.back();
    if (level.node.kind == YamlNode::Kind::kList) {
      level.node.items.push_back(std::move(node));
    } else if (level.has_key) {
      level.has_key = false;
      node.line = level.key_line;  // where the key stands: what people look for
      level.node.entries.emplace_back(std::move(level.key), std::move(node));
    } else {
      TakeKey(level, node);
    }
  }

  static void TakeKey(Level& level, const YamlNode& node) {
    if (node.kind != YamlNode::Kind::kScalar) {
      throw Refusal{node.Where(), fmt::format("a key must be a text, not {}", DescribeKind(node))};
    }
    if (const YamlNode* first = level.node.Find(node.text)) {
      throw Refusal{node.Where(),
                    fmt::format("{}: key given twice; first on line {}", node.text, first->line)};
    }
    if (node.text.size() > kMaxKeyBytes) {
      throw Refusal{node.Where(),
                    fmt::format("a key has {} bytes; at most {}", node.text.size(), kMaxKeyBytes)};
    }
    level.key = node.text;
    level.key_line = node.line;
    level.has_key = true;
  }

  std::shared_ptr<const std::string> source_;
  bool has_lines_;
  std::vector<Level> open_;
  YamlNode root_;
};

// Values may be a whole file long; whoever reads a message wants to recognise them.
std::string Shorten(const std::string& text) {
  constexpr size_t kMaxShown = 60;
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not inside a UTF-8 character
  return text.substr(0, end) + "…";
}

int LineOf(std::string_view text, size_t offset) {
  return 1 + static_cast<int>(
                 std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(offset), '\n'));
}

absl::StatusOr<YamlNode> Parse(std::string_view text, std::string_view source, bool has_lines) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} bytes are too many for a configuration; at most {}", source,
                    text.size(), kMaxBytes));
  }
  if (!simdjson::validate_utf8(text.data(), text.size())) {
    return absl::InvalidArgumentError(fmt::format("{}: not a text file in UTF-8", source));
  }
  const auto control = std::find_if(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r' && c != '\t';
  });
  if (control != text.end()) {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: not a text file: it contains the byte 0x{:02x}", source,
                    LineOf(text, static_cast<size_t>(control - text.begin())), *control));
  }
  const auto name = std::make_shared<const std::string>(source);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder first(name, has_lines);
    YamlNode root;
    if (parser.HandleNextDocument(first)) root = first.TakeRoot();
    TreeBuilder second(name, has_lines);
    if (parser.HandleNextDocument(second)) {
      throw Refusal{second.TakeRoot().Where(), "more than one document; expected one"};
    }
    if (root.source == nullptr) root.source = name;
    return root;
  } catch (const Refusal& refusal) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", refusal.where, refusal.message));
  } catch (const YAML::Exception& error) {
    const std::string where = has_lines && !error.mark.is_null()
                                  ? fmt::format("{}:{}", source, error.mark.line + 1)
                                  : std::string(source);
    return absl::InvalidArgumentError(fmt::format("{}: not valid YAML: {}", where, error.msg));
  }
}

}  // namespace

std::string YamlNode::Where() const {
  return line > 0 ? fmt::format("{}:{}", *source, line) : *source;
}

const YamlNode* YamlNode::Find(std::string_view key) const {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  return found == entries.end() ? nullptr : &found->second;
}

YamlNode* YamlNode::Find(std::string_view key) {
  return const_cast<YamlNode*>(std::as_const(*this).Find(key));
}

std::string DescribeKind(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return fmt::format("{}\"{}\"", node.quoted ? "the quoted text " : "", Shorten(node.text));
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMapping:
      return "a mapping";
  }
  return "";
}

absl::StatusOr<YamlNode> ParseYaml(std::string_view text, std::string_view source) {
  return Parse(text, source, true);
}

absl::StatusOr<YamlNode> ParseYamlValue(std::string_view text, std::string_view source) {
  return Parse(text, source, false);
}

std::string QuoteYaml(std::string_view text) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '/' || c == '.' ||
           c == '-';
  };
  // A plain scalar that begins with a letter or the root folder can only be mistaken for null.
  if (!text.empty() && text != "null" && text != "Null" && text != "NULL" &&
      (std::isalpha(static_cast<unsigned char>(text.front())) != 0 || text.front() == '/') &&
      std::all_of(text.begin(), text.end(), is_plain)) {
    return std::string(text);
  }
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", c);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace albef
