// Cleaning and tokens on the project's own fixtures, and what no fixture can hold.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "dataloader/basic_tokenizer.h"
#include "dataloader/caption.h"
#include "dataloader/utf8.h"
#include "dataloader/wordpiece.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
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

// Texts of every ASCII character, beside each other and at random.
std::vector<std::string> AsciiTexts() {
  std::vector<std::string> texts;
  for (int a = 0; a < 128; ++a) {
    for (int b = 0; b < 128; ++b) {
      texts.push_back({'x', static_cast<char>(a), static_cast<char>(b), 'Y', static_cast<char>(b)});
    }
  }
  for (uint64_t i = 0; i < 2000; ++i) {
    RandomStream random(3, RandomPurpose::kSynthetic, i);
    std::string text = "x";
    for (uint64_t n = random.Below(60); n > 0; --n) {
      static constexpr std::string_view kOften = "aB  ,.'-/<person>\n\t ~7";
      text.push_back(random.Bernoulli(0.8) ? kOften[random.Below(kOften.size())]
                                           : static_cast<char>(random.Below(128)));
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(Captions, OfAsciiAreCleanedAsAllOthers) {
  // The letter in front is cleaned by code points.
  for (const std::string& text : AsciiTexts()) {
    for (const int max_words : {1, 3, 30}) {
      EXPECT_EQ(CleanCaption("é" + text, max_words), "é" + CleanCaption(text, max_words)) << text;
      EXPECT_EQ(CleanQuestion("é" + text, max_words), "é" + CleanQuestion(text, max_words)) << text;
    }
  }
}

TEST(Words, OfAsciiAreThoseOfAllTexts) {
  for (const std::string& text : AsciiTexts()) {
    std::vector<std::string> expected, words;
    ForEachWord(text,
                [&](std::u32string_view word) { expected.emplace_back(word.begin(), word.end()); });
    ForEachAsciiWord(text, [&](std::string_view word) { words.emplace_back(word); });
    EXPECT_EQ(words, expected) << text;
  }
}

TEST(WordPiece, RemembersNoPiecesOfAnotherVocabulary) {
  TemporaryDirectory directory;
  const auto tokenizer = [&](const std::string& tokens) {
    const fs::path path = directory.path() / "vocab.txt";
    EXPECT_TRUE(WriteFileAtomic(path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + tokens).ok());
    return WordPieceTokenizer(*Vocabulary::Load(path));
  };
  const WordPieceTokenizer whole = tokenizer("treehouse\n"), parts = tokenizer("tree\n##house\n");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(whole.Tokenize("treehouse", {}), (Ids{2, 5}));
    EXPECT_EQ(parts.Tokenize("treehouse", {}), (Ids{2, 5, 6}));
  }
}

}  // namespace
}  // namespace albef
