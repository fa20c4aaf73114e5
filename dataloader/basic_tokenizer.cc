#include "dataloader/basic_tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <string>

#include "dataloader/utf8.h"

namespace albef {
namespace {

const utf8proc_property_t& Property(char32_t c) {
  return *utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
}

bool IsSeparator(char32_t c) {
  return c == U' ' || c == U'\t' || c == U'\n' || c == U'\r' || c == 0x2028 || c == 0x2029 ||
         Property(c).category == UTF8PROC_CATEGORY_ZS;
}

// Of what is no separator.
bool IsDropped(char32_t c) {
  switch (Property(c).category) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return true;
    default:
      return c == 0xFFFD;
  }
}

bool IsCjkIdeograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80)
    return c > 0x20 && c < 0x7F && !(c >= U'0' && c <= U'9') && !(c >= U'A' && c <= U'Z') &&
           !(c >= U'a' && c <= U'z');
  switch (Property(c).category) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return true;
    default:
      return false;
  }
}

// Appends the canonical decomposition of `c`, whose marks are in order among themselves.
void AppendDecomposition(char32_t c, std::u32string& text) {
  if (c < 0x80) {
    text.push_back(c);
    return;
  }
  std::array<utf8proc_int32_t, 8> parts;  // Unicode's longest canonical decomposition has 4
  int last_bound_class = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(), parts.size(),
                              UTF8PROC_DECOMPOSE, &last_bound_class);
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    text.push_back(static_cast<char32_t>(parts[static_cast<size_t>(i)]));
  }
}

// NFD's canonical order: runs of combining marks sorted by class, equals as they came.
void SortMarks(std::u32string& text) {
  const auto combining_class = [](char32_t c) { return Property(c).combining_class; };
  for (auto begin = text.begin(); begin != text.end();) {
    begin = std::find_if(begin, text.end(), [&](char32_t c) { return combining_class(c) != 0; });
    const auto end =
        std::find_if(begin, text.end(), [&](char32_t c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [&](char32_t a, char32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

// Takes what stood between white space: removes accents, splits at punctuation.
void VisitWords(std::u32string_view text, absl::FunctionRef<void(std::u32string_view)> visit) {
  std::u32string decomposed;
  for (const char32_t c : text) AppendDecomposition(c, decomposed);
  SortMarks(decomposed);
  std::erase_if(decomposed,
                [](char32_t c) { return Property(c).category == UTF8PROC_CATEGORY_MN; });
  std::u32string_view rest = decomposed;
  while (!rest.empty()) {
    const auto punctuation = std::find_if(rest.begin(), rest.end(), IsPunctuation);
    const size_t length = std::max<size_t>(1, static_cast<size_t>(punctuation - rest.begin()));
    visit(rest.substr(0, length));
    rest.remove_prefix(length);
  }
}

}  // namespace

void ForEachWord(std::string_view text, absl::FunctionRef<void(std::u32string_view)> visit) {
  std::u32string run;  // of characters between white space
  const auto end_run = [&] {
    VisitWords(run, visit);
    run.clear();
  };
  for (const char32_t c : DecodeUtf8(text)) {
    if (c == U'İ') {
      run.append(U"i\u0307");  // the only lower case of two characters
      continue;
    }
    const auto lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
    if (IsSeparator(lower)) {
      end_run();
    } else if (IsDropped(lower)) {
      continue;
    } else if (IsCjkIdeograph(lower)) {
      end_run();
      run.push_back(lower);
      end_run();
    } else {
      run.push_back(lower);
    }
  }
  end_run();
}

void ForEachAsciiWord(std::string_view text, absl::FunctionRef<void(std::string_view)> visit) {
  thread_local std::string word;
  word.clear();
  const auto end_word = [&] {
    if (!word.empty()) visit(word);
    word.clear();
  };
  for (char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      end_word();
    } else if (c < 0x20 || c == 0x7F) {
      continue;
    } else if (IsPunctuation(static_cast<char32_t>(c))) {
      end_word();
      visit({&c, 1});
    } else {
      word.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
    }
  }
  end_word();
}

}  // namespace albef
