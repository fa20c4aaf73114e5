#include "dataloader/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/json_reader.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class AnnotationsTest : public ::testing::Test {
 protected:
  fs::path Write(const std::string& name, std::string_view content) {
    std::ofstream(directory_.path() / name, std::ios::binary) << content;
    return directory_.path() / name;
  }
  absl::StatusOr<IndexedSamples> Load(std::string_view content) {
    const fs::path file = Write("train.json", content);
    return IndexedSamples::Open({&file, 1}, "/data");
  }
  std::string Error(std::string_view content) {
    const absl::Status status = Load(content).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << content;
    EXPECT_THAT(std::string(status.message()), HasSubstr("train.json: sample "));
    return std::string(status.message());
  }

  TemporaryDirectory directory_;
};

TEST_F(AnnotationsTest, ReadsStringsAndListsAndIgnoresOtherKeys) {
  const auto annotations = Load(R"([
    {"image": "a.jpg", "caption": "one", "image_id": 7, "boxes": [[1, -2.5e3], {"x": null}]},
    {"caption": ["two", "three"], "score": NaN, "image": "/abs/b.jpg", "ok": [true, false]},
    {"image": "c.jpg", "caption": []}])");
  ASSERT_TRUE(annotations.ok()) << annotations.status();
  ASSERT_EQ(annotations->size(), 3);
  EXPECT_EQ(annotations->Get(0).image_path, "/data/a.jpg");
  EXPECT_THAT(annotations->Get(0).captions, ElementsAre("one"));
  EXPECT_EQ(annotations->Get(1).image_path, "/abs/b.jpg");
  EXPECT_THAT(annotations->Get(1).captions, ElementsAre("two", "three"));
  EXPECT_THAT(annotations->Get(2).captions, IsEmpty());
}

TEST_F(AnnotationsTest, TheLastOfEqualKeysCounts) {
  const auto annotations =
      Load(R"([{"image": "a", "caption": ["x", "y"], "caption": "z", "image": "b"}])");
  ASSERT_TRUE(annotations.ok()) << annotations.status();
  EXPECT_EQ(annotations->Get(0).image_path, "/data/b");
  EXPECT_THAT(annotations->Get(0).captions, ElementsAre("z"));
}

TEST_F(AnnotationsTest, DecodesEscapes) {
  const auto annotations = Load(
      "\xEF\xBB\xBF[{\"image\": \"a\\/b\", \"caption\": "
      "\"\\\"\\\\\\b\\f\\n\\r\\t \\u00e9\\u4E2D\\ud83d\\ude00 \xC3\xA9\"}]\n");
  ASSERT_TRUE(annotations.ok()) << annotations.status();
  EXPECT_EQ(annotations->Get(0).image_path, "/data/a/b");
  EXPECT_THAT(annotations->Get(0).captions, ElementsAre("\"\\\b\f\n\r\t é中😀 é"));
}

TEST_F(AnnotationsTest, LetsOneCaptionInAWrongEncodingThrough) {
  const auto annotations = Load(
      "[{\"image\": \"a\", \"caption\": [\"caf\xE9\", \"cut \\ud83d\", \"\\ude00 \\u0041\", "
      "\"\\ud83d\\u0041\", \"fine\"]}]");
  ASSERT_TRUE(annotations.ok()) << annotations.status();
  const auto captions = annotations->Get(0).captions;
  ASSERT_EQ(captions.size(), 5u);
  EXPECT_EQ(captions[0], "caf\xE9");
  for (size_t i = 0; i < 4; ++i) EXPECT_FALSE(IsValidUtf8(captions[i])) << i;
  EXPECT_THAT(captions[3], EndsWith("A"));
  EXPECT_TRUE(IsValidUtf8(captions[4]));
}

TEST_F(AnnotationsTest, ConcatenatesFiles) {
  const fs::path files[] = {Write("a.json", R"([{"image": "a", "caption": "1"}])"),
                            Write("b.json", "[]"),
                            Write("c.json", R"([{"image": "c", "caption": "2"}])")};
  const auto annotations = IndexedSamples::Open(files, directory_.path());
  ASSERT_TRUE(annotations.ok()) << annotations.status();
  EXPECT_EQ(annotations->size(), 2);
  EXPECT_EQ(annotations->Get(1).image_path, directory_.path() / "c");
}

TEST_F(AnnotationsTest, NamesFileSampleAndByteOfMalformedJson) {
  const std::string good = R"({"image": "a", "caption": "b"})";  // 30 bytes
  EXPECT_THAT(Error(""), HasSubstr("sample 0: expected '[' at byte 0"));
  EXPECT_THAT(Error("{}"), HasSubstr("sample 0: expected '[' at byte 0"));
  EXPECT_THAT(Error("[" + good), HasSubstr("sample 1: expected ',' or ']' at byte 31"));
  EXPECT_THAT(Error("[" + good + " " + good + "]"), HasSubstr("expected ',' or ']' at byte 32"));
  EXPECT_THAT(Error("[" + good + ",]"), HasSubstr("sample 1: expected '{' at byte 32"));
  EXPECT_THAT(Error("[" + good + "]]"), HasSubstr("more text after the value at byte 32"));
  EXPECT_THAT(Error("[" + good + "]" + std::string(1, '\0')),
              HasSubstr("more text after the value at byte 32"));
  EXPECT_THAT(Error(R"([{"image" "a"}])"), HasSubstr("expected ':' at byte 10"));
  EXPECT_THAT(Error(R"([{image: "a"}])"), HasSubstr("expected a string at byte 2"));
  EXPECT_THAT(Error(R"([{"image": "a)"), HasSubstr("unterminated string at byte 13"));
  EXPECT_THAT(Error("[{\"image\": \"a\nb\"}]"),
              HasSubstr("control character in a string at byte 13"));
  EXPECT_THAT(Error(R"([{"image": "\x"}])"), HasSubstr("unknown escape in a string at byte 12"));
  EXPECT_THAT(Error(R"([{"image": "\u12g4"}])"), HasSubstr("hexadecimal digits at byte 12"));
  EXPECT_THAT(Error(R"([{"image": "\u12)"), HasSubstr("hexadecimal digits at byte 12"));
  EXPECT_THAT(Error(R"([{"image": "\)"), HasSubstr("unknown escape in a string at byte 12"));
  EXPECT_THAT(Error(R"([{"id": 01}])"), HasSubstr("expected ',' or '}' at byte 9"));
  EXPECT_THAT(Error(R"([{"id": 1.}])"), HasSubstr("malformed number at byte 10"));
  EXPECT_THAT(Error(R"([{"id": -x}])"), HasSubstr("malformed number at byte 9"));
  EXPECT_THAT(Error(R"([{"id": 1e)"), HasSubstr("the text ends within a value at byte 10"));
  EXPECT_THAT(Error(R"([{"id": truth}])"), HasSubstr("expected a value at byte 8"));
  EXPECT_THAT(Error("[{\"id\": " + std::string(100'000, '[')),
              HasSubstr("nested more than 100 deep at byte 106"));
}

TEST_F(AnnotationsTest, NamesTheSampleWithAWrongType) {
  const std::string good = R"({"image": "a", "caption": "b"},)";
  EXPECT_THAT(Error("[" + good + "7]"), HasSubstr("sample 1: expected '{' at byte 32"));
  EXPECT_THAT(Error("[" + good + R"({"image": 7}])"), HasSubstr("sample 1: expected a string"));
  EXPECT_THAT(Error("[" + good + R"({"image": "a", "caption": {}}])"),
              HasSubstr("sample 1: \"caption\" is neither a string nor a list at byte 58"));
  EXPECT_THAT(Error("[" + good + R"({"image": "a", "caption": ["b", null]}])"),
              HasSubstr("sample 1: expected a string at byte 64"));
  EXPECT_THAT(Error("[" + good + R"({"image": "a"}])"), HasSubstr("sample 1: no key \"caption\""));
  EXPECT_THAT(Error("[" + good + R"({"caption": "a"}])"), HasSubstr("sample 1: no key \"image\""));
}

TEST_F(AnnotationsTest, NamesAFileThatIsMissingOrHoldsNothing) {
  const fs::path missing = directory_.path() / "none.json";
  const absl::Status status = IndexedSamples::Open({&missing, 1}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none.json"));
  EXPECT_THAT(std::string(Load("[]").status().message()), HasSubstr("train.json: no sample"));
  EXPECT_FALSE(IndexedSamples::Open({}, "").ok());
}

// Every prefix and every one-byte change of a file gives samples or an error, never more.
TEST_F(AnnotationsTest, SurvivesAnyDamage) {
  const std::string content =
      R"([{"image": "a\u00e9", "caption": ["b", "\ud83d\ude00"], "n": [-1.5e+3, {"k": null}]}])";
  for (size_t size = 0; size < content.size(); ++size) {
    EXPECT_FALSE(Load(content.substr(0, size)).ok()) << size;
  }
  int loaded = 0;
  for (size_t i = 0; i < content.size(); ++i) {
    for (const char byte : {'\0', '"', '\\', '{', ']', ',', '0', '\xFF'}) {
      std::string damaged = content;
      damaged[i] = byte;
      const auto annotations = Load(damaged);
      if (!annotations.ok()) continue;
      ++loaded;
      EXPECT_EQ(annotations->size(), 1);
      annotations->Get(0);
    }
  }
  EXPECT_GT(loaded, 0);
}

// What a reader makes of a text: its strings and keys, and how it ends.
std::string Trace(JsonReader reader) {
  std::string trace;
  std::string text;
  const std::function<absl::Status()> read = [&]() -> absl::Status {
    const char c = reader.Peek();
    if (c != '[' && c != '{') return c == '"' ? reader.ReadString(text) : reader.Skip();
    absl::Status status = reader.Open(c);
    for (bool first = true; status.ok();) {
      const absl::StatusOr<bool> more = reader.Next(c == '[' ? ']' : '}', first);
      if (!more.ok() || !*more) return more.status();
      if (c == '{') status = reader.ReadKey(text);
      trace += text + "|";
      if (status.ok()) status = read();
      trace += text + "|";
    }
    return status;
  };
  absl::Status status = read();
  if (status.ok()) status = reader.ExpectEnd();
  return trace + std::string(status.message());
}

TEST(JsonReader, ReadsTheSameFromPiecesOfAnySize) {
  const std::string content =
      "\xEF\xBB\xBF[{\"im\\u00e9\": \"\\ud83d\\ude00 \\ud83dx\", \"n\": [-1.5e+3, true, "
      "-Infinity, {\"k\\\\\": null}]}, \"" +
      std::string(300'000, 'x') + "\"]";
  std::vector<std::string> texts = {content};
  for (size_t size = 0; size < 120; ++size) texts.push_back(content.substr(0, size));
  for (const std::string& text : texts) {
    for (const size_t piece : {1, 2, 3, 7, 1 << 20}) {
      if (piece == 1 && text.size() > 1000) continue;  // slow
      size_t offset = 0;
      JsonReader pieces([&](std::span<char> room) -> absl::StatusOr<size_t> {
        const size_t count = std::min({piece, room.size(), text.size() - offset});
        std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(offset), count, room.begin());
        offset += count;
        return count;
      });
      EXPECT_EQ(Trace(std::move(pieces)), Trace(JsonReader(text))) << text.size() << " " << piece;
    }
  }
}

TEST(JsonReader, ReportsAFailureToReadAsItIs) {
  int calls = 0;
  JsonReader reader([&](std::span<char> room) -> absl::StatusOr<size_t> {
    if (++calls > 1) return absl::UnavailableError("stale file handle");
    room[0] = '[';
    return 1;
  });
  EXPECT_TRUE(reader.Open('[').ok());
  bool first = true;
  ASSERT_TRUE(reader.Next(']', first).ok());
  EXPECT_EQ(reader.Skip(), absl::UnavailableError("stale file handle"));
  EXPECT_FALSE(reader.ExpectEnd().ok());
}

}  // namespace
}  // namespace albef
