#include "dataloader/caption.h"

#include <utf8proc.h>

#include <algorithm>

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

std::u32string LowerCaseWithoutPunctuation(std::string_view text) {
  std::u32string kept;
  for (const char32_t c : LowerCase(DecodeUtf8(text))) {
    if (std::u32string_view(U",.'!?\"()*#:;~").find(c) != std::u32string_view::npos) continue;
    kept.push_back(c == U'-' || c == U'/' ? U' ' : c);
  }
  return kept;
}

std::u32string CollapseSpaceRuns(std::u32string_view text) {
  std::u32string collapsed;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && IsSpace(text[end])) ++end;
    if (end - begin >= 2) {
      collapsed.push_back(U' ');
      begin = end;
    } else {
      collapsed.push_back(text[begin++]);
    }
  }
  return collapsed;
}

std::u32string_view StripTrailing(std::u32string_view text, char32_t c) {
  return text.substr(0, text.find_last_not_of(c) + 1);
}

std::string FirstWords(std::u32string_view text, int max_words) {
  std::string words;
  int spaces = 0;
  for (const char32_t c : text) {
    if (c == U' ' && ++spaces == max_words) break;
    AppendUtf8(c, words);
  }
  return words;
}

}  // namespace

std::string CleanCaption(std::string_view text, int max_words) {
  std::u32string cleaned = LowerCaseWithoutPunctuation(text);
  constexpr std::u32string_view kPerson = U"<person>";
  for (size_t at = cleaned.find(kPerson); at != std::u32string::npos;
       at = cleaned.find(kPerson, at)) {
    cleaned.replace(at, kPerson.size(), U"person");
    at += 6;
  }
  cleaned = CollapseSpaceRuns(cleaned);
  std::u32string_view stripped = StripTrailing(StripTrailing(cleaned, U'\n'), U' ');
  stripped.remove_prefix(std::min(stripped.find_first_not_of(U' '), stripped.size()));
  return FirstWords(stripped, max_words);
}

std::string CleanQuestion(std::string_view text, int max_words) {
  return FirstWords(StripTrailing(LowerCaseWithoutPunctuation(text), U' '), max_words);
}

}  // namespace albef
