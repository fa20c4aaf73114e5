// The ways in which pickles write text and big integers. Private to pickle*.cc.
//
// Pure functions; safe to call from any thread. What is malformed has no value.
#ifndef ALBEF_FORMATS_PICKLE_TEXT_H_
#define ALBEF_FORMATS_PICKLE_TEXT_H_

#include <optional>
#include <string>
#include <string_view>

namespace albef {

// What is between the quotes of STRING: the repr of Python 2's str.
std::optional<std::string> UnescapePython2(std::string_view quoted);

// The line of UNICODE, Python's raw-unicode-escape; the result is UTF-8.
std::optional<std::string> UnescapeRawUnicode(std::string_view line);

// The code points of a valid UTF-8 text as bytes; nothing if one is above U+00FF.
std::optional<std::string> Latin1FromUtf8(std::string_view utf8);

// The decimal digits of a little-endian two's complement number of at least one byte. Takes
// quadratic time.
std::string DecimalFromTwosComplement(std::string_view bytes);

}  // namespace albef

#endif  // ALBEF_FORMATS_PICKLE_TEXT_H_
