// Cleaning of captions and questions, exactly as the authors' data sets do it (spec §4.1, §10).
//
// Both lower-case the whole text by the full Unicode rules, final sigma included; delete
// , . ' ! ? " ( ) * # : ; ~ ; turn '-' and '/' into spaces; and keep the first `max_words` parts
// between single spaces. They take any bytes: what is not UTF-8 reads as U+FFFD. Pure functions.
#ifndef ALBEF_DATALOADER_CAPTION_H_
#define ALBEF_DATALOADER_CAPTION_H_

#include <string>
#include <string_view>

namespace albef {

// Captions also turn <person> into person and runs of white space into one space, and lose trailing
// newlines and then spaces at both ends. A lone tab or newline inside survives.
std::string CleanCaption(std::string_view text, int max_words);
// The same into a string whose memory is reused; `text` must lie elsewhere.
void CleanCaption(std::string_view text, int max_words, std::string& cleaned);

// Questions keep runs of white space, whose empty parts count as words, and lose trailing spaces.
std::string CleanQuestion(std::string_view text, int max_words);

}  // namespace albef

#endif  // ALBEF_DATALOADER_CAPTION_H_
