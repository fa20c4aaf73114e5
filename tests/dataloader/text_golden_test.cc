// Cleaning and tokens against numbers from the authors' code, line by line, exactly.
//
// The fixtures hold real captions, so they are not part of the project: $ALBEF_GOLDENS/text, or
// ../shared/goldens/text beside the checkout. Their vocabulary is $ALBEF_VOCAB or
// ../shared/data/bert-base-uncased/vocab.txt.
#include <gtest/gtest.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dataloader/basic_tokenizer.h"
#include "dataloader/caption.h"
#include "dataloader/token_batch.h"
#include "dataloader/utf8.h"
#include "dataloader/wordpiece.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<int64_t>;

fs::path EnvironmentOr(const char* name, const fs::path& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? fs::path(value) : fallback;
}

class TextGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = EnvironmentOr("ALBEF_GOLDENS", "../shared/goldens") / "text";
    const fs::path vocabulary =
        EnvironmentOr("ALBEF_VOCAB", "../shared/data/bert-base-uncased/vocab.txt");
    for (const fs::path& path : {folder_, vocabulary}) {
      if (!fs::exists(path)) {
        GTEST_SKIP() << path << " does not exist: set ALBEF_GOLDENS and ALBEF_VOCAB, or put "
                     << "goldens/ and data/ into ../shared";
      }
    }
    auto loaded = Vocabulary::Load(vocabulary);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_.emplace(*std::move(loaded));
  }

  // Calls `check` with every line of a file; there must be some.
  void ForEachLine(const std::string& name, const std::function<void(const Json&)>& check) {
    std::ifstream file(folder_ / name);
    int line_number = 0;
    for (std::string line; std::getline(file, line);) {
      SCOPED_TRACE(name + ":" + std::to_string(++line_number));
      check(Json::parse(line));
    }
    EXPECT_GT(line_number, 0) << name;
  }

  Ids Tokens(const std::string& text, std::optional<int> max_length = std::nullopt) const {
    return tokenizer_->Tokenize(text, {.max_length = max_length});
  }

  // The rows of a padded matrix, as the fixtures have them.
  static Json Rows(const Ids& matrix_BT, int text_length) {
    Json rows = Json::array();
    for (auto row = matrix_BT.begin(); row != matrix_BT.end(); row += text_length) {
      rows.push_back(Ids(row, row + text_length));
    }
    return rows;
  }

  fs::path folder_;
  std::optional<WordPieceTokenizer> tokenizer_;
};

TEST_F(TextGolden, CleansCaptions) {
  ForEachLine("clean_caption.jsonl", [](const Json& line) {
    EXPECT_EQ(CleanCaption(line["raw"].get<std::string>(), 30), line["clean_30"]);
  });
}

TEST_F(TextGolden, CleansQuestions) {
  ForEachLine("clean_question.jsonl", [](const Json& line) {
    const auto raw = line["raw"].get<std::string>();
    EXPECT_EQ(CleanQuestion(raw, 30), line["clean_30"]);
    EXPECT_EQ(CleanQuestion(raw, 50), line["clean_50"]);
  });
}

TEST_F(TextGolden, TokenizesCleanedCaptions) {
  ForEachLine("tokenize.jsonl", [&](const Json& line) {
    EXPECT_EQ(Tokens(line["text"], 25), line["ids"].get<Ids>());
  });
}

TEST_F(TextGolden, TokenizesRawText) {
  ForEachLine("tokenize_raw.jsonl", [&](const Json& line) {
    EXPECT_EQ(Tokens(line["text"], 25), line["ids_25"].get<Ids>());
    EXPECT_EQ(Tokens(line["text"]), line["ids"].get<Ids>());
  });
}

TEST_F(TextGolden, TokenizesTheTextsOfEveryTask) {
  ForEachLine("pairs.jsonl", [&](const Json& line) {
    const auto kind = line["kind"].get<std::string>();
    std::vector<std::string> texts;
    if (line.contains("raw")) {
      texts = {line["raw"]};
    } else if (line.contains("text")) {
      texts = {line["text"]};
    } else {
      texts = line["texts"].get<std::vector<std::string>>();
    }
    std::optional<int> max_length;
    for (std::string& text : texts) {
      if (kind == "vqa_answer" || kind == "vqa_answer_batch") {
        text += line["appended"].get<std::string>();
      } else if (kind == "vqa_question_train") {
        text = CleanQuestion(text, 30);
        max_length = 25;
      } else if (kind == "vqa_question_test") {
        text = CleanQuestion(text, 50);
      } else if (kind == "nlvr_ve_sentence") {
        text = CleanCaption(text, 30);
      } else if (kind == "retrieval_eval") {
        max_length = 30;
      } else if (kind == "pretrain_batch") {
        max_length = 25;
      } else {
        ASSERT_EQ(kind, "retrieval_train_batch");
      }
    }
    std::vector<Ids> ids_of_texts;
    for (const std::string& text : texts) ids_of_texts.push_back(Tokens(text, max_length));
    const std::vector<std::span<const int64_t>> rows(ids_of_texts.begin(), ids_of_texts.end());
    const int64_t pad_id = tokenizer_->vocabulary().pad_id();
    const TokenBatch batch =
        kind == "retrieval_eval" ? PadTokens(rows, pad_id, 30) : PadTokens(rows, pad_id);
    const Json ids = Rows(batch.input_ids_BT, batch.text_length);
    const Json mask = Rows(batch.attention_mask_BT, batch.text_length);
    const bool is_batch = line.contains("texts");
    EXPECT_EQ(is_batch ? ids : ids[0], line["ids"]) << kind;
    EXPECT_EQ(is_batch ? mask : mask[0], line["mask"]) << kind;
  });
}

// Marks, punctuation and a CJK ideograph of Unicode 15: the fixture's tables are 14.0.
constexpr std::pair<char32_t, char32_t> kNewerThanFixture[] = {
    {0xECE, 0xECE},     {0x10EFD, 0x10EFF}, {0x11241, 0x11241}, {0x11B00, 0x11B09},
    {0x11F00, 0x11F01}, {0x11F36, 0x11F3A}, {0x11F40, 0x11F40}, {0x11F42, 0x11F4F},
    {0x13439, 0x13440}, {0x13447, 0x13455}, {0x1E08F, 0x1E08F}, {0x1E4EC, 0x1E4EF},
    {0x2B739, 0x2B739}};

bool IsNewerThanFixture(char32_t c) {
  return std::any_of(std::begin(kNewerThanFixture), std::end(kNewerThanFixture),
                     [c](const auto& range) { return range.first <= c && c <= range.second; });
}

std::string Utf8(const std::u32string& code_points) {
  std::string text;
  for (const char32_t c : code_points) AppendUtf8(c, text);
  return text;
}

// Hangul syllables decompose by arithmetic (Unicode, section 3.12).
std::u32string HangulDecomposition(char32_t syllable) {
  const char32_t s = syllable - 0xAC00;
  std::u32string jamo = {0x1100 + s / 588, 0x1161 + s % 588 / 28};
  if (s % 28 != 0) jamo.push_back(0x11A7 + s % 28);
  return jamo;
}

TEST_F(TextGolden, TreatsEveryCodePointAsTheReferenceDoes) {
  std::ifstream file(folder_ / "codepoints.json");
  const Json golden = Json::parse(file);
  std::map<char32_t, std::string> expected;  // words with a space between
  const auto fill = [&](const char* key, const std::function<std::string(char32_t)>& words) {
    for (const auto& range : golden[key]) {
      for (char32_t c = range[0]; c <= range[1].get<char32_t>(); ++c) expected[c] = words(c);
    }
  };
  fill("dropped", [](char32_t) { return "xx"; });
  fill("space", [](char32_t) { return "x x"; });
  fill("isolated", [](char32_t c) { return Utf8({U'x', U' ', c, U' ', U'x'}); });
  for (const auto& [hex, words] : golden["mapped"].items()) {
    expected[static_cast<char32_t>(std::stoul(hex, nullptr, 16))] = words;
  }
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if ((c >= 0xD800 && c < 0xE000) || IsNewerThanFixture(c)) continue;
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    std::string want = Utf8({U'x', c, U'x'});
    if (const auto listed = expected.find(c); listed != expected.end()) {
      want = listed->second;
    } else if (category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_CO) {
      want = "xx";
    } else if (c >= 0xAC00 && c <= 0xD7A3) {
      want = Utf8(U"x" + HangulDecomposition(c) + U"x");
    }
    std::string got;
    ForEachWord(Utf8({U'x', c, U'x'}), [&](std::u32string_view word) {
      if (!got.empty()) got += ' ';
      got += Utf8(std::u32string(word));
    });
    ASSERT_EQ(got, want) << "U+" << std::hex << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace albef
