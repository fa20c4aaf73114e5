#include "dataloader/vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/file.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

constexpr char kSpecial[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";

absl::StatusOr<Vocabulary> Load(const std::string& content) {
  TemporaryDirectory directory;
  EXPECT_TRUE(WriteFileAtomic(directory.path() / "vocab.txt", content).ok());
  return Vocabulary::Load(directory.path() / "vocab.txt");
}

std::string Error(const std::string& content) {
  const absl::Status status = Load(content).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(Vocabulary, NumbersTokensByLine) {
  const auto vocabulary = Load("a\n##a\n" + std::string(kSpecial) + "##\nlast");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->size(), 9);
  EXPECT_EQ(vocabulary->Find("a"), 0);
  EXPECT_EQ(vocabulary->FindContinuation("a"), 1);
  EXPECT_EQ(vocabulary->pad_id(), 2);
  EXPECT_EQ(vocabulary->unk_id(), 3);
  EXPECT_EQ(vocabulary->cls_id(), 4);
  EXPECT_EQ(vocabulary->sep_id(), 5);
  EXPECT_EQ(vocabulary->mask_id(), 6);
  EXPECT_EQ(vocabulary->Find("##"), 7);
  EXPECT_EQ(vocabulary->Find("last"), 8);
  EXPECT_EQ(vocabulary->Find("b"), std::nullopt);
  EXPECT_EQ(vocabulary->Token(1), "##a");
}

TEST(Vocabulary, NamesTheLineOfEveryFault) {
  const std::string special = kSpecial;
  EXPECT_THAT(Error(special + "a\nb\na\n"), HasSubstr("vocab.txt:8: token \"a\" stands on line 6"));
  EXPECT_THAT(Error(special + "##a\n##a\n"), HasSubstr("vocab.txt:7: token \"##a\""));
  EXPECT_THAT(Error(special + "a\n\nb\n"), HasSubstr("vocab.txt:7: empty line"));
  EXPECT_THAT(Error("[PAD]\r\n[UNK]\r\n"), HasSubstr("vocab.txt:1: carriage return"));
  EXPECT_THAT(Error(special + "caf\xE9\n"), HasSubstr("vocab.txt:6: bytes that are not UTF-8"));
}

TEST(Vocabulary, NamesAMissingSpecialToken) {
  EXPECT_THAT(Error("[PAD]\n[UNK]\n[CLS]\n[SEP]\n"), HasSubstr("special token [MASK]"));
  EXPECT_THAT(Error(""), HasSubstr("[PAD]"));
}

TEST(Vocabulary, RefusesWhatIsTooLargeToBeOne) {
  std::string content = kSpecial;
  for (int i = 0; i < 500'000; ++i) content += std::to_string(i) + "\n";
  EXPECT_THAT(Error(content), HasSubstr("vocab.txt:500001: more than 500000 tokens"));
}

TEST(Vocabulary, NamesAMissingFile) {
  EXPECT_EQ(Vocabulary::Load("/nonexistent/vocab.txt").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace albef
