#include "checkpoint/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Steps = std::vector<int64_t>;

TEST(Retention, KeepsTheNewestWhateverTheOrder) {
  const Steps committed = {300, 100, 500, 200, 400};
  EXPECT_THAT(StepsToDelete(committed, {.keep = 2}, {}), ElementsAre(100, 200, 300));
  EXPECT_THAT(StepsToDelete(committed, {.keep = 4}, {}), ElementsAre(100));
  EXPECT_THAT(StepsToDelete(committed, {.keep = 5}, {}), IsEmpty());
  EXPECT_THAT(StepsToDelete(committed, {.keep = 100}, {}), IsEmpty());
}

TEST(Retention, NeverKeepsFewerThanTwo) {
  for (const int64_t keep : {int64_t{-1}, int64_t{0}, int64_t{1}}) {
    EXPECT_THAT(StepsToDelete(Steps{1, 2, 3}, {.keep = keep}, {}), ElementsAre(1));
  }
}

TEST(Retention, KeepsMilestonesForGood) {
  const Steps committed = {0, 50, 100, 150, 200, 250};
  EXPECT_THAT(StepsToDelete(committed, {.keep = 2, .keep_every = 100}, {}), ElementsAre(50, 150));
  EXPECT_THAT(StepsToDelete(committed, {.keep = 2, .keep_every = 1}, {}), IsEmpty());
  EXPECT_THAT(StepsToDelete(committed, {.keep = 2, .keep_every = 1000}, {}),
              ElementsAre(50, 100, 150));
}

TEST(Retention, NeverDeletesTheLastVerified) {
  EXPECT_THAT(StepsToDelete(Steps{1, 2, 3, 4, 5}, {.keep = 2}, 1), ElementsAre(2, 3));
  EXPECT_THAT(StepsToDelete(Steps{1, 2, 3, 4, 5}, {.keep = 2}, 5), ElementsAre(1, 2, 3));
}

TEST(Retention, HasNothingToSayAboutAnEmptyFolder) {
  EXPECT_THAT(StepsToDelete({}, {.keep = 2, .keep_every = 10}, 7), IsEmpty());
}

}  // namespace
}  // namespace albef
