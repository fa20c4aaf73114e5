#include "dataloader/wordpiece.h"

#include <algorithm>
#include <array>

#include "dataloader/basic_tokenizer.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

constexpr size_t kMaxWordCodePoints = 100;

}  // namespace

void WordPieceTokenizer::AppendPieces(std::u32string_view word, std::string& bytes,
                                      std::vector<int64_t>& ids) const {
  if (word.size() > kMaxWordCodePoints) {
    ids.push_back(vocabulary_.unk_id());
    return;
  }
  bytes.clear();
  for (const char32_t c : word) AppendUtf8(c, bytes);
  const size_t first_piece = ids.size();
  for (std::string_view rest = bytes; !rest.empty();) {
    const bool begins_word = rest.size() == bytes.size();
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

std::vector<int64_t> WordPieceTokenizer::Tokenize(std::string_view text,
                                                  const Options& options) const {
  const std::array<std::pair<std::string_view, int64_t>, 5> literals = {
      {{"[UNK]", vocabulary_.unk_id()},
       {"[SEP]", vocabulary_.sep_id()},
       {"[PAD]", vocabulary_.pad_id()},
       {"[CLS]", vocabulary_.cls_id()},
       {"[MASK]", vocabulary_.mask_id()}}};
  std::vector<int64_t> ids = {vocabulary_.cls_id()};
  std::string bytes;
  const auto append_words = [&](std::string_view segment) {
    ForEachWord(segment, [&](std::u32string_view word) { AppendPieces(word, bytes, ids); });
  };
  size_t begin = 0;
  for (size_t at = text.find('['); at != std::string_view::npos; at = text.find('[', at)) {
    const auto literal = std::find_if(literals.begin(), literals.end(), [&](const auto& l) {
      return text.substr(at).starts_with(l.first);
    });
    if (literal == literals.end()) {
      ++at;
      continue;
    }
    append_words(text.substr(begin, at - begin));
    ids.push_back(literal->second);
    at += literal->first.size();
    begin = at;
  }
  append_words(text.substr(begin));
  if (options.max_length && ids.size() > static_cast<size_t>(*options.max_length)) {
    ids.resize(static_cast<size_t>(*options.max_length));
  }
  return ids;
}

}  // namespace albef
