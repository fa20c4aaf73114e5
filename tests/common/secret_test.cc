#include "common/secret.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

TEST(Secret, SecretsAreEqualOnlyAsAWhole) {
  EXPECT_TRUE(SecretsEqual("abc", "abc"));
  EXPECT_TRUE(SecretsEqual("", ""));
  for (const char* other : {"abd", "ab", "abcd", "", "abcabc"}) {
    EXPECT_FALSE(SecretsEqual("abc", other)) << other;
    EXPECT_FALSE(SecretsEqual(other, "abc")) << other;
  }
}

}  // namespace
}  // namespace albef
