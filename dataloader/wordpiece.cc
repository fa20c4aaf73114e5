#include "dataloader/wordpiece.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <unordered_map>

#include "dataloader/basic_tokenizer.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

constexpr size_t kMaxWordCodePoints = 100;

// Words of a text repeat: of most captions all pieces are found with one look per word.
constexpr size_t kMaxCachedWords = 10'000;
constexpr size_t kMaxCachedWordBytes = 40;

struct WordCache {
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  uint64_t vocabulary_number = 0;
  std::unordered_map<std::string, std::vector<int64_t>, Hash, std::equal_to<>> pieces;
};

uint64_t NextVocabularyNumber() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), vocabulary_number_(NextVocabularyNumber()) {}

void WordPieceTokenizer::AppendCachedPieces(std::string_view word, size_t num_code_points,
                                            std::vector<int64_t>& ids) const {
  if (word.size() > kMaxCachedWordBytes) return AppendPieces(word, num_code_points, ids);
  thread_local WordCache cache;
  if (cache.vocabulary_number != vocabulary_number_) {
    cache.pieces.clear();
    cache.vocabulary_number = vocabulary_number_;
  }
  if (const auto known = cache.pieces.find(word); known != cache.pieces.end()) {
    ids.insert(ids.end(), known->second.begin(), known->second.end());
    return;
  }
  const auto first_piece = static_cast<std::ptrdiff_t>(ids.size());
  AppendPieces(word, num_code_points, ids);
  if (cache.pieces.size() < kMaxCachedWords) {
    cache.pieces.emplace(word, std::vector<int64_t>(ids.begin() + first_piece, ids.end()));
  }
}

void WordPieceTokenizer::AppendPieces(std::string_view word, size_t num_code_points,
                                      std::vector<int64_t>& ids) const {
  if (num_code_points > kMaxWordCodePoints) {
    ids.push_back(vocabulary_.unk_id());
    return;
  }
  const size_t first_piece = ids.size();
  for (std::string_view rest = word; !rest.empty();) {
    const bool begins_word = rest.size() == word.size();
    std::optional<int64_t> id;
    size_t length = std::min(rest.size(), vocabulary_.longest_token_bytes());
    for (; length > 0; --length) {
      const std::string_view piece = rest.substr(0, length);
      id = begins_word ? vocabulary_.Find(piece) : vocabulary_.FindContinuation(piece);
      if (id) break;
    }
    if (!id) {
      ids.resize(first_piece);
      ids.push_back(vocabulary_.unk_id());
      return;
    }
    ids.push_back(*id);
    rest.remove_prefix(length);
  }
}

void WordPieceTokenizer::AppendWords(std::string_view text, std::vector<int64_t>& ids) const {
  if (IsAscii(text)) {
    ForEachAsciiWord(text,
                     [&](std::string_view word) { AppendCachedPieces(word, word.size(), ids); });
    return;
  }
  std::string bytes;
  ForEachWord(text, [&](std::u32string_view word) {
    bytes.clear();
    for (const char32_t c : word) AppendUtf8(c, bytes);
    AppendCachedPieces(bytes, word.size(), ids);
  });
}

std::vector<int64_t> WordPieceTokenizer::Tokenize(std::string_view text,
                                                  const Options& options) const {
  std::vector<int64_t> ids;
  Tokenize(text, options, ids);
  return ids;
}

void WordPieceTokenizer::Tokenize(std::string_view text, const Options& options,
                                  std::vector<int64_t>& ids) const {
  const std::array<std::pair<std::string_view, int64_t>, 5> literals = {
      {{"[UNK]", vocabulary_.unk_id()},
       {"[SEP]", vocabulary_.sep_id()},
       {"[PAD]", vocabulary_.pad_id()},
       {"[CLS]", vocabulary_.cls_id()},
       {"[MASK]", vocabulary_.mask_id()}}};
  ids.assign(1, vocabulary_.cls_id());
  size_t begin = 0;
  for (size_t at = text.find('['); at != std::string_view::npos; at = text.find('[', at)) {
    const auto literal = std::find_if(literals.begin(), literals.end(), [&](const auto& l) {
      return text.substr(at).starts_with(l.first);
    });
    if (literal == literals.end()) {
      ++at;
      continue;
    }
    AppendWords(text.substr(begin, at - begin), ids);
    ids.push_back(literal->second);
    at += literal->first.size();
    begin = at;
  }
  AppendWords(text.substr(begin), ids);
  if (options.max_length && ids.size() > static_cast<size_t>(*options.max_length)) {
    ids.resize(static_cast<size_t>(*options.max_length));
  }
}

}  // namespace albef
