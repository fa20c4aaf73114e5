// The WordPiece vocabulary: one token per line, the line number counted from 0 is its id.
#ifndef ALBEF_DATALOADER_VOCABULARY_H_
#define ALBEF_DATALOADER_VOCABULARY_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace albef {

// Immutable once loaded; safe to read from any thread.
class Vocabulary {
 public:
  // Refuses, with file and line: an empty or repeated token, a carriage return, bytes that are not
  // UTF-8, more than 500,000 tokens; and a file without one of the special tokens.
  static absl::StatusOr<Vocabulary> Load(const std::filesystem::path& path);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  // `id` in [0, size).
  const std::string& Token(int64_t id) const { return tokens_[static_cast<size_t>(id)]; }

  // The id of a token that begins a word (or is special), and of "##" + `piece`.
  std::optional<int64_t> Find(std::string_view token) const { return Find(begin_, token); }
  std::optional<int64_t> FindContinuation(std::string_view piece) const {
    return Find(continuation_, piece);
  }
  // Bytes of the longest token: no piece of a word can be longer.
  size_t longest_token_bytes() const { return longest_token_bytes_; }

  int64_t pad_id() const { return pad_id_; }
  int64_t unk_id() const { return unk_id_; }
  int64_t cls_id() const { return cls_id_; }
  int64_t sep_id() const { return sep_id_; }
  int64_t mask_id() const { return mask_id_; }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  using Ids = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;

  static std::optional<int64_t> Find(const Ids& ids, std::string_view key) {
    const auto found = ids.find(key);
    return found == ids.end() ? std::nullopt : std::optional(found->second);
  }

  std::vector<std::string> tokens_;
  Ids begin_;
  Ids continuation_;  // keys without "##"
  size_t longest_token_bytes_ = 0;
  int64_t pad_id_ = 0, unk_id_ = 0, cls_id_ = 0, sep_id_ = 0, mask_id_ = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_VOCABULARY_H_
