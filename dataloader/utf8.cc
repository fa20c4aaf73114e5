#include "dataloader/utf8.h"

#include <utf8proc.h>

#include <cstdint>

namespace albef {
namespace {

// Reads the code point at the head of `text` and drops its bytes; −1 and one byte when malformed.
utf8proc_int32_t TakeCodePoint(std::string_view& text) {
  utf8proc_int32_t code_point;
  const utf8proc_ssize_t bytes =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &code_point);
  text.remove_prefix(bytes > 0 ? static_cast<size_t>(bytes) : 1);
  return bytes > 0 ? code_point : -1;
}

}  // namespace

bool IsAscii(std::string_view text) {
  uint8_t seen = 0;
  for (const char c : text) seen |= static_cast<uint8_t>(c);
  return seen < 0x80;
}

bool IsValidUtf8(std::string_view text) {
  if (IsAscii(text)) return true;
  while (!text.empty()) {
    if (TakeCodePoint(text) < 0) return false;
  }
  return true;
}

std::u32string DecodeUtf8(std::string_view text) {
  std::u32string code_points;
  code_points.reserve(text.size());
  while (!text.empty()) {
    const utf8proc_int32_t code_point = TakeCodePoint(text);
    code_points.push_back(code_point < 0 ? U'\uFFFD' : static_cast<char32_t>(code_point));
  }
  return code_points;
}

void AppendUtf8(char32_t code_point, std::string& text) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t count =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

}  // namespace albef
