#include "dataloader/json_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "common/status_macros.h"

namespace albef {
namespace {

constexpr int kMaxDepth = 100;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::optional<uint32_t> HexDigit(char c) {
  if (IsDigit(c)) return static_cast<uint32_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint32_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<uint32_t>(c - 'A' + 10);
  return std::nullopt;
}

// Also encodes surrogates, which strict encoders refuse.
void AppendCodePoint(uint32_t c, std::string& text) {
  const auto append = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    append(c);
    return;
  }
  if (c < 0x800) {
    append(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      append(0xE0 | c >> 12);
    } else {
      append(0xF0 | c >> 18);
      append(0x80 | (c >> 12 & 0x3F));
    }
    append(0x80 | (c >> 6 & 0x3F));
  }
  append(0x80 | (c & 0x3F));
}

}  // namespace

JsonReader::JsonReader(std::string_view text) : text_(text) {
  Take("\xEF\xBB\xBF");  // byte order mark
}

absl::Status JsonReader::Error(std::string_view what) const {
  return absl::InvalidArgumentError(fmt::format("{} at byte {}", what, offset_));
}

char JsonReader::Peek() {
  constexpr std::string_view kWhiteSpace = " \t\n\r";
  while (offset_ < text_.size() && kWhiteSpace.find(text_[offset_]) != std::string_view::npos) {
    ++offset_;
  }
  return offset_ < text_.size() ? text_[offset_] : '\0';
}

absl::Status JsonReader::Open(char bracket) {
  if (Peek() != bracket) return Error(fmt::format("expected '{}'", bracket));
  if (++depth_ > kMaxDepth) return Error(fmt::format("nested more than {} deep", kMaxDepth));
  ++offset_;
  return absl::OkStatus();
}

absl::StatusOr<bool> JsonReader::Next(char closing_bracket, bool& first) {
  const char c = Peek();
  if (c == closing_bracket) {
    ++offset_;
    --depth_;
    return false;
  }
  if (!first) {
    if (c != ',') return Error(fmt::format("expected ',' or '{}'", closing_bracket));
    ++offset_;
  }
  first = false;
  return true;
}

absl::Status JsonReader::ReadString(std::string& value) {
  if (Peek() != '"') return Error("expected a string");
  ++offset_;
  value.clear();
  while (true) {
    const auto* const begin = text_.begin() + offset_;
    const auto* const end = std::find_if(begin, text_.end(), [](char c) {
      return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
    });
    value.append(begin, end);
    offset_ += static_cast<size_t>(end - begin);
    if (end == text_.end()) return Error("unterminated string");
    if (*end == '"') {
      ++offset_;
      return absl::OkStatus();
    }
    if (*end != '\\') return Error("unescaped control character in a string");
    RETURN_IF_ERROR(ReadEscape(value));
  }
}

absl::Status JsonReader::ReadEscape(std::string& value) {
  constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char letter = offset_ + 1 < text_.size() ? text_[offset_ + 1] : '\0';
  if (const size_t simple = kLetters.find(letter); simple != std::string_view::npos) {
    value.push_back(kMeanings[simple]);
    offset_ += 2;
    return absl::OkStatus();
  }
  if (letter != 'u') return Error("unknown escape in a string");
  ASSIGN_OR_RETURN(uint32_t code_point, ReadHex4());
  if (code_point >= 0xD800 && code_point < 0xDC00 && text_.substr(offset_).starts_with("\\u")) {
    const size_t after_first = offset_;
    ASSIGN_OR_RETURN(const uint32_t second, ReadHex4());
    if (second >= 0xDC00 && second < 0xE000) {
      code_point = 0x10000 + ((code_point - 0xD800) << 10) + (second - 0xDC00);
    } else {
      offset_ = after_first;
    }
  }
  AppendCodePoint(code_point, value);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> JsonReader::ReadHex4() {
  uint32_t value = 0;
  for (size_t i = 2; i < 6; ++i) {
    const std::optional<uint32_t> digit =
        offset_ + i < text_.size() ? HexDigit(text_[offset_ + i]) : std::nullopt;
    if (!digit) return Error("\\u without four hexadecimal digits");
    value = value << 4 | *digit;
  }
  offset_ += 6;
  return value;
}

absl::Status JsonReader::ReadKey(std::string& key) {
  RETURN_IF_ERROR(ReadString(key));
  if (Peek() != ':') return Error("expected ':'");
  ++offset_;
  return absl::OkStatus();
}

absl::Status JsonReader::Skip() {
  const char c = Peek();
  bool first = true;
  switch (c) {
    case '"':
      return ReadString(scratch_);
    case '[':
    case '{':
      RETURN_IF_ERROR(Open(c));
      while (true) {
        ASSIGN_OR_RETURN(const bool more, Next(c == '[' ? ']' : '}', first));
        if (!more) return absl::OkStatus();
        if (c == '{') RETURN_IF_ERROR(ReadKey(scratch_));
        RETURN_IF_ERROR(Skip());
      }
    default:
      for (const std::string_view literal :
           {"true", "false", "null", "NaN", "Infinity", "-Infinity"}) {
        if (Take(literal)) return absl::OkStatus();
      }
      return SkipNumber();
  }
}

absl::Status JsonReader::SkipNumber() {
  const size_t begin = offset_;
  const bool well_formed = [&] {
    Take("-");
    if (!Take("0") && !TakeDigits()) return false;
    if (Take(".") && !TakeDigits()) return false;
    if (!Take("e") && !Take("E")) return true;
    if (!Take("+")) Take("-");
    return TakeDigits();
  }();
  if (well_formed) return absl::OkStatus();
  if (offset_ == text_.size()) return Error("the text ends within a value");
  return Error(offset_ == begin ? "expected a value" : "malformed number");
}

bool JsonReader::TakeDigits() {
  const size_t begin = offset_;
  while (offset_ < text_.size() && IsDigit(text_[offset_])) ++offset_;
  return offset_ > begin;
}

bool JsonReader::Take(std::string_view literal) {
  if (!text_.substr(offset_).starts_with(literal)) return false;
  offset_ += literal.size();
  return true;
}

absl::Status JsonReader::ExpectEnd() {
  if (Peek() != '\0' || offset_ != text_.size()) return Error("more text after the value");
  return absl::OkStatus();
}

}  // namespace albef
