// Texts that claim to be UTF-8. Pure functions; safe to call from any thread.
#ifndef ALBEF_FORMATS_UTF8_H_
#define ALBEF_FORMATS_UTF8_H_

#include <string>
#include <string_view>

namespace albef {

bool IsUtf8(std::string_view text);

// In double quotes and escaped, for messages. Of a text that is not UTF-8 every byte outside ASCII
// becomes \xNN. Names out of files go through here and not through fmt's {:?}: libspdlog brings a
// copy of fmt's code for it, which programs may be linked to, and which aborts at such texts.
std::string Quoted(std::string_view text);

}  // namespace albef

#endif  // ALBEF_FORMATS_UTF8_H_
