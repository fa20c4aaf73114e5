#include "formats/pickle_text.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

namespace albef {
namespace {

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

}  // namespace

std::optional<std::string> UnescapePython2(std::string_view quoted) {
  return Unescape(quoted, {.kinds = "\\'\"nrtx", .keep_unknown = false, .latin1 = false});
}

std::optional<std::string> UnescapeRawUnicode(std::string_view line) {
  return Unescape(line, {.kinds = "uU", .keep_unknown = true, .latin1 = true});
}

std::optional<std::string> Latin1FromUtf8(std::string_view utf8) {
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

std::string DecimalFromTwosComplement(std::string_view bytes) {
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

}  // namespace albef
