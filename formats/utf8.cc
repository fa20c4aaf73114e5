#include "formats/utf8.h"

#include <fmt/format.h>
#include <simdjson.h>

namespace albef {

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::string Quoted(std::string_view text) {
  if (IsUtf8(text)) return fmt::format("{:?}", text);
  std::string ascii;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      // Without the quotes around it.
      const std::string escaped = fmt::format("{:?}", std::string_view(&c, 1));
      ascii.append(escaped, 1, escaped.size() - 2);
    } else {
      ascii += fmt::format("\\x{:02x}", byte);
    }
  }
  return fmt::format("\"{}\"", ascii);
}

}  // namespace albef
