// The first half of BERT's uncased tokenizer: text to words, before they are cut into pieces.
#ifndef ALBEF_DATALOADER_BASIC_TOKENIZER_H_
#define ALBEF_DATALOADER_BASIC_TOKENIZER_H_

#include <string_view>

#include "absl/functional/function_ref.h"

namespace albef {

// Calls `visit` with each word of `text` in order; the view lives for the call. In this order: each
// code point is lower-cased by itself (no final sigma, unlike CleanCaption); U+FFFD and category C*
// vanish but for tab and newlines; CJK ideographs stand alone; the text is split at white space;
// NFD, without nonspacing marks (Mn); punctuation stands alone. Bytes that are not UTF-8 read as
// U+FFFD. Thread-safe.
void ForEachWord(std::string_view text, absl::FunctionRef<void(std::u32string_view)> visit);

// The same words, faster, of a text that is ASCII.
void ForEachAsciiWord(std::string_view text, absl::FunctionRef<void(std::string_view)> visit);

}  // namespace albef

#endif  // ALBEF_DATALOADER_BASIC_TOKENIZER_H_
