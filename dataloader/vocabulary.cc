#include "dataloader/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

constexpr size_t kMaxTokens = 500'000;

// Why `token` cannot stand in a vocabulary; empty when it can.
std::string_view Fault(std::string_view token) {
  if (token.empty()) return "empty line; every line must hold a token";
  if (token.find('\r') != std::string_view::npos) {
    return "carriage return; lines must end with a line feed alone (dos2unix repairs the file)";
  }
  if (!IsValidUtf8(token)) return "bytes that are not UTF-8";
  return "";
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Load(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  Vocabulary vocabulary;
  const auto error_here = [&](std::string_view what) {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: {}", path.string(), vocabulary.tokens_.size() + 1, what));
  };
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::string_view token = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(token.size() + 1, rest.size()));
    if (const std::string_view fault = Fault(token); !fault.empty()) return error_here(fault);
    if (vocabulary.tokens_.size() == kMaxTokens) {
      return error_here(fmt::format("more than {} tokens; is this a vocabulary?", kMaxTokens));
    }
    const bool continues = token.starts_with("##") && token.size() > 2;
    auto& ids = continues ? vocabulary.continuation_ : vocabulary.begin_;
    const auto [known, added] =
        ids.emplace(token.substr(continues ? 2 : 0), vocabulary.tokens_.size());
    if (!added) {
      return error_here(fmt::format("token \"{}\" stands on line {} already; remove one of the two",
                                    token, known->second + 1));
    }
    vocabulary.tokens_.emplace_back(token);
    vocabulary.longest_token_bytes_ = std::max(vocabulary.longest_token_bytes_, token.size());
  }
  for (const auto& [token, id] : {std::pair{"[PAD]", &vocabulary.pad_id_},
                                  {"[UNK]", &vocabulary.unk_id_},
                                  {"[CLS]", &vocabulary.cls_id_},
                                  {"[SEP]", &vocabulary.sep_id_},
                                  {"[MASK]", &vocabulary.mask_id_}}) {
    const std::optional<int64_t> found = vocabulary.Find(token);
    if (!found) {
      return absl::InvalidArgumentError(
          fmt::format("{}: special token {} is on none of its {} lines; this is no BERT vocabulary",
                      path.string(), token, vocabulary.size()));
    }
    *id = *found;
  }
  return vocabulary;
}

}  // namespace albef
