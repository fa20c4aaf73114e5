#include "formats/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace albef {
namespace {

TEST(Quoted, EscapesWhatATerminalWouldNotShow) {
  EXPECT_EQ(Quoted(""), R"("")");
  EXPECT_EQ(Quoted("a/b.png"), R"("a/b.png")");
  EXPECT_EQ(Quoted("é"), "\"é\"");
  EXPECT_EQ(Quoted("\"\\\n\x1b"), R"("\"\\\n\x1b")");
}

TEST(Quoted, ShowsTheBytesOfWhatIsNotUtf8) {
  EXPECT_EQ(Quoted("\xf4\xf4x"), R"("\xf4\xf4x")");
  EXPECT_EQ(Quoted("\"\n\xc3"), R"("\"\n\xc3")");
  for (int first = 0x80; first < 0x100; ++first) {
    for (int second = 0; second < 0x100; ++second) {
      const std::string text = {static_cast<char>(first), static_cast<char>(second), '\xff'};
      ASSERT_FALSE(IsUtf8(text));
      EXPECT_TRUE(Quoted(text).ends_with("\\xff\"")) << first << " " << second;
    }
  }
}

}  // namespace
}  // namespace albef
