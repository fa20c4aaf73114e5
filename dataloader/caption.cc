#include "dataloader/caption.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "dataloader/utf8.h"

namespace albef {
namespace {

utf8proc_category_t Category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

// Unicode's Case_Ignorable (DerivedCoreProperties.txt).
bool IsCaseIgnorable(char32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:  // Word_Break = MidLetter, MidNumLet or Single_Quote
      return std::u32string_view(
                 U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52"
                 U"\uFE55\uFF07\uFF0E\uFF1A")
                 .find(c) != std::u32string_view::npos;
  }
}

// Unicode's Cased, for characters that are not case-ignorable.
bool IsCased(char32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:  // Other_Lowercase and Other_Uppercase: ordinals, Roman numerals, letters in circles
      return c == 0xAA || c == 0xBA || (c >= 0x2160 && c <= 0x217F) ||
             (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

// Unicode's Final_Sigma: a cased letter before and none after, case-ignorable ones not counted.
bool IsFinalSigma(std::u32string_view text, size_t index) {
  size_t before = index;
  while (before > 0 && IsCaseIgnorable(text[before - 1])) --before;
  if (before == 0 || !IsCased(text[before - 1])) return false;
  size_t after = index + 1;
  while (after < text.size() && IsCaseIgnorable(text[after])) ++after;
  return after == text.size() || !IsCased(text[after]);
}

std::u32string LowerCase(std::u32string_view text) {
  std::u32string lower;
  lower.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == U'Σ') {
      lower.push_back(IsFinalSigma(text, i) ? U'ς' : U'σ');
    } else if (text[i] == U'İ') {
      lower.append(U"i\u0307");  // the only lower case of two characters
    } else {
      lower.push_back(
          static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(text[i]))));
    }
  }
  return lower;
}

// Python's str.isspace, which its regular expressions use for \s.
bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0x2028 ||
         c == 0x2029 || Category(c) == UTF8PROC_CATEGORY_ZS;
}

// The same character by character where the text is ASCII.
bool IsSpace(char c) { return IsSpace(static_cast<char32_t>(c)); }

// What follows is the same for code points and, where the text is ASCII, for bytes.

// Drops punctuation, and makes spaces of the marks that join words.
template <typename Text>
void RemovePunctuation(Text& text) {
  size_t kept = 0;
  for (const auto c : text) {
    switch (c) {
      case ',':
      case '.':
      case '\'':
      case '!':
      case '?':
      case '"':
      case '(':
      case ')':
      case '*':
      case '#':
      case ':':
      case ';':
      case '~':
        continue;
      case '-':
      case '/':
        text[kept++] = ' ';
        break;
      default:
        text[kept++] = c;
    }
  }
  text.resize(kept);
}

// <person> → person.
template <typename Text>
void UnwrapPersons(Text& text) {
  using View = std::basic_string_view<typename Text::value_type>;
  constexpr std::array<typename Text::value_type, 8> kPerson = {'<', 'p', 'e', 'r',
                                                                's', 'o', 'n', '>'};
  const View person(kPerson.data(), kPerson.size());
  for (size_t at = text.find(person); at != Text::npos; at = text.find(person, at)) {
    text.replace(at, person.size(), person.substr(1, person.size() - 2));
    at += person.size() - 2;
  }
}

template <typename Text>
void CollapseSpaceRuns(Text& text) {
  size_t kept = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && IsSpace(text[end])) ++end;
    if (end - begin >= 2) {
      text[kept++] = ' ';
      begin = end;
    } else {
      text[kept++] = text[begin++];
    }
  }
  text.resize(kept);
}

template <typename Text>
void StripTrailing(Text& text, char c) {
  text.resize(text.find_last_not_of(static_cast<typename Text::value_type>(c)) + 1);
}

template <typename Text>
void KeepFirstWords(Text& text, int max_words) {
  int spaces = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ' ' || ++spaces < max_words) continue;
    text.resize(i);
    return;
  }
}

template <typename Text>
void CleanLowerCaption(int max_words, Text& text) {
  RemovePunctuation(text);
  UnwrapPersons(text);
  CollapseSpaceRuns(text);
  StripTrailing(text, '\n');
  StripTrailing(text, ' ');
  text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
  KeepFirstWords(text, max_words);
}

template <typename Text>
void CleanLowerQuestion(int max_words, Text& text) {
  RemovePunctuation(text);
  StripTrailing(text, ' ');
  KeepFirstWords(text, max_words);
}

void AssignLowerAscii(std::string_view text, std::string& lower) {
  lower.assign(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
}

std::string ToUtf8(std::u32string_view text) {
  std::string utf8;
  for (const char32_t c : text) AppendUtf8(c, utf8);
  return utf8;
}

}  // namespace

void CleanCaption(std::string_view text, int max_words, std::string& cleaned) {
  if (IsAscii(text)) {
    AssignLowerAscii(text, cleaned);
    CleanLowerCaption(max_words, cleaned);
    return;
  }
  std::u32string lower = LowerCase(DecodeUtf8(text));
  CleanLowerCaption(max_words, lower);
  cleaned = ToUtf8(lower);
}

std::string CleanCaption(std::string_view text, int max_words) {
  std::string cleaned;
  CleanCaption(text, max_words, cleaned);
  return cleaned;
}

std::string CleanQuestion(std::string_view text, int max_words) {
  if (IsAscii(text)) {
    std::string cleaned;
    AssignLowerAscii(text, cleaned);
    CleanLowerQuestion(max_words, cleaned);
    return cleaned;
  }
  std::u32string lower = LowerCase(DecodeUtf8(text));
  CleanLowerQuestion(max_words, lower);
  return ToUtf8(lower);
}

}  // namespace albef
