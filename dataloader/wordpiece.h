// BERT's uncased WordPiece tokenizer, id for id what the authors' tokenizer gives (spec §4.2).
#ifndef ALBEF_DATALOADER_WORDPIECE_H_
#define ALBEF_DATALOADER_WORDPIECE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dataloader/vocabulary.h"

namespace albef {

// The literals [UNK] [SEP] [PAD] [CLS] [MASK] become special ids; what is between them is split
// into words (ForEachWord), and each word into the longest pieces the vocabulary has, from left to
// right. A word that cannot be covered, or of more than 100 code points, is one [UNK].
//
// Immutable; safe to call from any thread.
class WordPieceTokenizer {
 public:
  explicit WordPieceTokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

  struct Options {
    // Of the ids with [CLS], at least 1; pieces on the right are dropped. Absent: no limit.
    std::optional<int> max_length;
  };
  // [CLS] and the pieces. There is no trailing [SEP].
  std::vector<int64_t> Tokenize(std::string_view text, const Options& options) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  // `bytes` is scratch space.
  void AppendPieces(std::u32string_view word, std::string& bytes, std::vector<int64_t>& ids) const;

  Vocabulary vocabulary_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_WORDPIECE_H_
