// Cleaning and tokens on the project's own fixtures, and what no fixture can hold.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "dataloader/caption.h"
#include "dataloader/utf8.h"
#include "dataloader/wordpiece.h"

namespace albef {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int64_t>;

constexpr char kFolder[] = "tests/golden/text-own";

WordPieceTokenizer OwnTokenizer() {
  auto vocabulary = Vocabulary::Load(std::string(kFolder) + "/vocab.txt");
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
  return WordPieceTokenizer(*std::move(vocabulary));
}

TEST(OwnTextFixture, AgreesOnEveryLine) {
  const WordPieceTokenizer tokenizer = OwnTokenizer();
  std::ifstream file(std::string(kFolder) + "/expected.jsonl");
  int lines = 0;
  for (std::string text; std::getline(file, text); ++lines) {
    const Json line = Json::parse(text);
    const auto raw = line["text"].get<std::string>();
    EXPECT_EQ(tokenizer.Tokenize(raw, {}), line["ids"].get<Ids>()) << text;
    const std::string caption = CleanCaption(raw, 30);
    EXPECT_EQ(caption, line["caption"]) << text;
    EXPECT_EQ(tokenizer.Tokenize(caption, {.max_length = 25}), line["caption_ids_25"].get<Ids>())
        << text;
    EXPECT_EQ(CleanQuestion(raw, 30), line["question_30"]) << text;
  }
  EXPECT_EQ(lines, 25);
}

TEST(WordPieceTokenizer, TruncatesFromTheRightAndKeepsTheFirstToken) {
  const WordPieceTokenizer tokenizer = OwnTokenizer();
  const Ids all = tokenizer.Tokenize("the cat near the tree", {});
  ASSERT_EQ(all.size(), 6u);
  for (int length = 1; length <= 8; ++length) {
    Ids expected = all;
    expected.resize(std::min(all.size(), static_cast<size_t>(length)));
    EXPECT_EQ(tokenizer.Tokenize("the cat near the tree", {.max_length = length}), expected);
  }
}

TEST(WordPieceTokenizer, DropsBytesThatAreNotUtf8) {
  const WordPieceTokenizer tokenizer = OwnTokenizer();
  const Ids expected = tokenizer.Tokenize("the cat", {});
  for (const std::string text :
       {"the c\xFF"
        "at",
        "the cat \xC3", "\xED\xA0\x80the cat", "the\xC0\xAF cat", "the cat\xF4\x90\x80\x80"}) {
    EXPECT_FALSE(IsValidUtf8(text));
    EXPECT_EQ(tokenizer.Tokenize(text, {}), expected);
  }
}

TEST(WordPieceTokenizer, GivesTheSameFromManyThreads) {
  const WordPieceTokenizer tokenizer = OwnTokenizer();
  const Ids expected = tokenizer.Tokenize("two children jumping near the river", {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 100; ++repeat) {
        EXPECT_EQ(tokenizer.Tokenize("two children jumping near the river", {}), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CleanCaption, ReadsBytesThatAreNotUtf8AsReplacementCharacters) {
  EXPECT_EQ(CleanCaption("CAF\xE9 \xC3", 30), "caf\uFFFD \uFFFD");
}

TEST(CleanCaption, KeepsTheFirstWords) {
  EXPECT_EQ(CleanCaption("one two three", 2), "one two");
  EXPECT_EQ(CleanCaption("one two", 2), "one two");
  EXPECT_EQ(CleanQuestion("  one two", 3), "  one");
}

TEST(Utf8, KeepsEveryCodePoint) {
  for (char32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 257) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    EXPECT_TRUE(IsValidUtf8(text));
    EXPECT_EQ(DecodeUtf8(text), std::u32string(1, c));
  }
}

}  // namespace
}  // namespace albef
