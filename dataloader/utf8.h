// UTF-8 as the text pipeline needs it: bytes to code points and back.
#ifndef ALBEF_DATALOADER_UTF8_H_
#define ALBEF_DATALOADER_UTF8_H_

#include <string>
#include <string_view>

namespace albef {

// True when all bytes are below 0x80.
bool IsAscii(std::string_view text);

// True when `text` holds only shortest-form encodings of code points that are no surrogates.
bool IsValidUtf8(std::string_view text);

// Every byte that does not belong to a valid encoding becomes one U+FFFD.
std::u32string DecodeUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& text);

}  // namespace albef

#endif  // ALBEF_DATALOADER_UTF8_H_
