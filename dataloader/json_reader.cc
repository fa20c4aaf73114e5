#include "dataloader/json_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

constexpr int kMaxDepth = 100;
// The longest look ahead is an escape: much smaller.
constexpr size_t kBufferBytes = 1 << 18;
constexpr size_t kUnicodeEscapeBytes = 6;  // \uXXXX

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

JsonReader::JsonReader(Read read) : read_(std::move(read)), buffer_(kBufferBytes) {
  Take("\xEF\xBB\xBF");  // byte order mark
}

JsonReader::JsonReader(std::string_view text) : rest_(text) { Take("\xEF\xBB\xBF"); }

absl::Status JsonReader::Error(std::string_view what) const {
  if (!read_status_.ok()) return read_status_;
  return absl::InvalidArgumentError(fmt::format("{} at byte {}", what, offset_));
}

bool JsonReader::Fill(size_t count) {
  while (rest_.size() < count) {
    if (!read_) return false;
    // Nothing is kept before the first read, and then there is nowhere to move it from.
    if (!rest_.empty()) std::memmove(buffer_.data(), rest_.data(), rest_.size());
    const absl::StatusOr<size_t> added = read_(std::span(buffer_).subspan(rest_.size()));
    read_status_ = added.status();
    const size_t size = rest_.size() + added.value_or(0);
    if (size == rest_.size()) read_ = nullptr;
    rest_ = std::string_view(buffer_.data(), size);
  }
  return true;
}

void JsonReader::Advance(size_t count) {
  rest_.remove_prefix(count);
  offset_ += count;
}

char JsonReader::Peek() {
  while (true) {
    const size_t blanks = std::min(rest_.find_first_not_of(" \t\n\r"), rest_.size());
    Advance(blanks);
    if (!rest_.empty()) return rest_.front();
    if (!Fill(1)) return '\0';
  }
}

absl::Status JsonReader::Open(char bracket) {
  if (Peek() != bracket) return Error(fmt::format("expected '{}'", bracket));
  if (++depth_ > kMaxDepth) return Error(fmt::format("nested more than {} deep", kMaxDepth));
  Advance(1);
  return absl::OkStatus();
}

absl::StatusOr<bool> JsonReader::Next(char closing_bracket, bool& first) {
  const char c = Peek();
  if (c == closing_bracket) {
    Advance(1);
    --depth_;
    return false;
  }
  if (!first) {
    if (c != ',') return Error(fmt::format("expected ',' or '{}'", closing_bracket));
    Advance(1);
  }
  first = false;
  return true;
}

absl::Status JsonReader::ReadString(std::string& value) {
  if (Peek() != '"') return Error("expected a string");
  Advance(1);
  value.clear();
  while (true) {
    const auto* const end = std::find_if(rest_.begin(), rest_.end(), [](char c) {
      return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
    });
    value.append(rest_.begin(), end);
    Advance(static_cast<size_t>(end - rest_.begin()));
    if (rest_.empty()) {
      if (!Fill(1)) return Error("unterminated string");
      continue;
    }
    if (rest_.front() == '"') {
      Advance(1);
      return absl::OkStatus();
    }
    if (rest_.front() != '\\') return Error("unescaped control character in a string");
    RETURN_IF_ERROR(ReadEscape(value));
  }
}

absl::Status JsonReader::ReadEscape(std::string& value) {
  constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char letter = Fill(2) ? rest_[1] : '\0';
  if (const size_t simple = kLetters.find(letter); simple != std::string_view::npos) {
    value.push_back(kMeanings[simple]);
    Advance(2);
    return absl::OkStatus();
  }
  if (letter != 'u') return Error("unknown escape in a string");
  ASSIGN_OR_RETURN(uint32_t code_point, PeekHex4());
  Advance(kUnicodeEscapeBytes);
  if (code_point >= 0xD800 && code_point < 0xDC00 && Fill(2) && rest_.starts_with("\\u")) {
    ASSIGN_OR_RETURN(const uint32_t second, PeekHex4());
    if (second >= 0xDC00 && second < 0xE000) {
      code_point = 0x10000 + ((code_point - 0xD800) << 10) + (second - 0xDC00);
      Advance(kUnicodeEscapeBytes);
    }
  }
  AppendCodePoint(code_point, value);
  return absl::OkStatus();
}

// The number of the escape \uXXXX that comes next.
absl::StatusOr<uint32_t> JsonReader::PeekHex4() {
  uint32_t value = 0;
  Fill(kUnicodeEscapeBytes);
  for (size_t i = 2; i < kUnicodeEscapeBytes; ++i) {
    const std::optional<uint32_t> digit = i < rest_.size() ? HexDigit(rest_[i]) : std::nullopt;
    if (!digit) return Error("\\u without four hexadecimal digits");
    value = value << 4 | *digit;
  }
  return value;
}

absl::Status JsonReader::ReadKey(std::string& key) {
  RETURN_IF_ERROR(ReadString(key));
  if (Peek() != ':') return Error("expected ':'");
  Advance(1);
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
  const uint64_t begin = offset_;
  const bool well_formed = [&] {
    Take("-");
    if (!Take("0") && !TakeDigits()) return false;
    if (Take(".") && !TakeDigits()) return false;
    if (!Take("e") && !Take("E")) return true;
    if (!Take("+")) Take("-");
    return TakeDigits();
  }();
  if (well_formed) return absl::OkStatus();
  if (!Fill(1)) return Error("the text ends within a value");
  return Error(offset_ == begin ? "expected a value" : "malformed number");
}

bool JsonReader::TakeDigits() {
  const uint64_t begin = offset_;
  while (Fill(1) && IsDigit(rest_.front())) Advance(1);
  return offset_ > begin;
}

bool JsonReader::Take(std::string_view literal) {
  if (!Fill(literal.size()) || !rest_.starts_with(literal)) return false;
  Advance(literal.size());
  return true;
}

absl::Status JsonReader::ExpectEnd() {
  Peek();
  if (!rest_.empty()) return Error("more text after the value");
  return read_status_;
}

}  // namespace albef
