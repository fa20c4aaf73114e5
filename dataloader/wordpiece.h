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
// Immutable; safe to call from any thread. Each thread remembers the pieces of words that it has
// seen, some ten thousand at most.
class WordPieceTokenizer {
 public:
  explicit WordPieceTokenizer(Vocabulary vocabulary);

  struct Options {
    // Of the ids with [CLS], at least 1; pieces on the right are dropped. Absent: no limit.
    std::optional<int> max_length;
  };
  // [CLS] and the pieces. There is no trailing [SEP].
  std::vector<int64_t> Tokenize(std::string_view text, const Options& options) const;
  // The same into a vector whose memory is reused.
  void Tokenize(std::string_view text, const Options& options, std::vector<int64_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  void AppendWords(std::string_view text, std::vector<int64_t>& ids) const;
  // `word` in UTF-8.
  void AppendPieces(std::string_view word, size_t num_code_points, std::vector<int64_t>& ids) const;
  void AppendCachedPieces(std::string_view word, size_t num_code_points,
                          std::vector<int64_t>& ids) const;

  Vocabulary vocabulary_;
  uint64_t vocabulary_number_;  // for the threads' memories: equal only for equal vocabularies
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_WORDPIECE_H_
