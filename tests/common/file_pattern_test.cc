#include "common/file_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FilePattern : public ::testing::Test {
 protected:
  void Make(const std::string& name) {
    ASSERT_TRUE(CreateDirectories((root() / name).parent_path()).ok());
    ASSERT_TRUE(WriteFileAtomic(root() / name, "").ok());
  }
  // Relative to the root.
  std::vector<std::string> Expand(std::string_view pattern) {
    const auto paths = ExpandFilePattern(root(), pattern);
    EXPECT_TRUE(paths.ok()) << paths.status();
    std::vector<std::string> names;
    if (!paths.ok()) return names;
    for (const fs::path& path : *paths) names.push_back(path.lexically_relative(root()));
    return names;
  }
  absl::Status Error(std::string_view pattern) {
    return ExpandFilePattern(root(), pattern).status();
  }
  fs::path root() const { return directory_.path() / "r[o]ot*"; }

  TemporaryDirectory directory_;
};

TEST_F(FilePattern, ExpandsListsAndRanges) {
  EXPECT_THAT(Expand("a.json"), ElementsAre("a.json"));
  EXPECT_THAT(Expand("{b,a,c}.json"), ElementsAre("b.json", "a.json", "c.json"));
  EXPECT_THAT(Expand("s-{008..011}.tar"),
              ElementsAre("s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"));
  EXPECT_THAT(Expand("{9..11}"), ElementsAre("9", "10", "11"));
  EXPECT_THAT(Expand("{2..0}"), ElementsAre("2", "1", "0"));
  EXPECT_THAT(Expand("{0..1}{x,y}"), ElementsAre("0x", "0y", "1x", "1y"));
  EXPECT_THAT(Expand("a{1{x,y},2,}"), ElementsAre("a1x", "a1y", "a2", "a"));
  EXPECT_THAT(Expand("{x..y}"), ElementsAre("x..y"));
}

TEST_F(FilePattern, MatchesWildcardsInTheOrderOfTheBytes) {
  for (const char* name : {"b/2.tar", "a/10.tar", "a/2.tar", "a/x.json", "B/1.tar"}) Make(name);
  EXPECT_THAT(Expand("*/*.tar"), ElementsAre("B/1.tar", "a/10.tar", "a/2.tar", "b/2.tar"));
  EXPECT_THAT(Expand("{b,a}/[0-9].tar"), ElementsAre("b/2.tar", "a/2.tar"));
  EXPECT_THAT(Expand("a/?.*"), ElementsAre("a/2.tar", "a/x.json"));
  EXPECT_EQ(*ExpandFilePattern("/nowhere", (directory_.path() / "*").string() + "/a/x.json"),
            std::vector<fs::path>{root() / "a/x.json"});
}

TEST_F(FilePattern, ANameThatExistsIsThatFile) {
  Make("{1..2}.json");
  Make("*.tar");
  Make("a.tar");
  EXPECT_THAT(Expand("{1..2}.json"), ElementsAre("{1..2}.json"));
  EXPECT_THAT(Expand("*.tar"), ElementsAre("*.tar"));
}

TEST_F(FilePattern, RefusesWhatMeansNothing) {
  for (const char* pattern : {"{a,b", "a}", "{a}}", "{{a}"}) {
    EXPECT_EQ(Error(pattern).code(), absl::StatusCode::kInvalidArgument) << pattern;
  }
  EXPECT_THAT(std::string(Error("{0..9999999}").message()), HasSubstr("more than 1000000 files"));
  EXPECT_FALSE(Error("{0..999}{0..999}{0..9}").ok());
  EXPECT_FALSE(Error(std::string(5000, 'x')).ok());
  EXPECT_EQ(Error("*.tar").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace albef
