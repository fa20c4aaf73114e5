#include "dataloader/eval_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/dataloader/stream_fakes.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(EvalSet, ListsEachImageOnceAndItsTextsInFileOrder) {
  const FakeSource source({{"a.jpg", {"The cat.", "A dog!"}},
                           {"b.jpg", {"<person> near the tree"}},
                           {"a.jpg", {"a bird"}},
                           {"c.jpg", {}}});
  const auto set = EvalSet::Create(source, *OwnTokenizer(), {});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->image_paths, ElementsAre("a.jpg", "b.jpg", "c.jpg"));
  EXPECT_THAT(set->texts, ElementsAre("the cat", "a dog", "person near the tree", "a bird"));
  EXPECT_THAT(set->image_of_text, ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(set->texts_of_image,
              ElementsAre(ElementsAre(0, 1, 3), ElementsAre(2), ElementsAre()));
}

TEST(EvalSet, MaxImagesCountsImagesAndTakesAllTheirTexts) {
  const FakeSource source({{"a.jpg", {"the cat"}},
                           {"b.jpg", {"a dog"}},
                           {"c.jpg", {"a bird"}},
                           {"a.jpg", {"the tree"}}});
  const auto set = EvalSet::Create(source, *OwnTokenizer(), {.max_images = 2});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->image_paths, ElementsAre("a.jpg", "b.jpg"));
  EXPECT_THAT(set->texts, ElementsAre("the cat", "a dog", "the tree"));
  EXPECT_THAT(set->texts_of_image, ElementsAre(ElementsAre(0, 2), ElementsAre(1)));
}

TEST(EvalSet, PadsAndCutsToExactlyTheTextLength) {
  std::string long_text;
  for (int i = 0; i < 29; ++i) long_text += "dogs ";  // two pieces each
  const FakeSource source({{"a", {"the cat", long_text}}});
  const auto tokenizer = OwnTokenizer();
  const auto set = EvalSet::Create(source, *tokenizer, {});
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->tokens.text_length, 30);
  ASSERT_EQ(set->tokens.input_ids_BT.size(), 60u);
  for (size_t t = 0; t < 30; ++t) {
    EXPECT_EQ(set->tokens.attention_mask_BT[t], t < 3 ? 1 : 0);
    EXPECT_EQ(set->tokens.input_ids_BT[t] == tokenizer->vocabulary().pad_id(), t >= 3);
    EXPECT_EQ(set->tokens.attention_mask_BT[30 + t], 1);
  }
}

TEST(EvalSet, RefusesACaptionThatIsNotUtf8) {
  const FakeSource source({{"a.jpg", {"fine"}}, {"b.jpg", {"caf\xE9"}}});
  const absl::Status status = EvalSet::Create(source, *OwnTokenizer(), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("b.jpg"));
}

}  // namespace
}  // namespace albef
