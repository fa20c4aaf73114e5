#include "checkpoint/manifest.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/random.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

constexpr size_t kChecksumBegin = std::string_view(R"({"xxh3_128":")").size();
constexpr size_t kChecksumEnd = kChecksumBegin + 32;

// Makes the checksum right again after the text behind it was changed: what a forger would do.
std::string WithChecksum(std::string text) {
  const auto rest = std::as_bytes(std::span(text).subspan(kChecksumEnd));
  return text.replace(kChecksumBegin, 32, ToHex(HashBytes(rest)));
}

Manifest Example() {
  constexpr uint64_t kBlock = kDigestBlockBytes;
  Manifest manifest;
  manifest.info.counters = {.iteration = 1200, .updates = 1198, .ema_updates = 1199, .epoch = 3};
  manifest.info.config_digest = "0a1b";
  manifest.info.virtual_ranks = 4;
  manifest.info.seed = ~uint64_t{0};
  manifest.info.facts = {{"compiler", "g++ \"12\"\n"}, {"µ", "✓"}};
  manifest.state_digest = {.high = 1, .low = ~uint64_t{0}};
  manifest.files = {{"shard-00000-of-00002.safetensors", kBlock + 200, {1, 2}},
                    {"shard-00001-of-00002.safetensors", 500, {3, 4}}};
  manifest.tensors = {
      {{"temp", DType::kF32, {}}, {{0, 100, 0, 4}}},
      {{"cut", DType::kU8, {static_cast<int64_t>(kBlock) + 5}},
       {{0, 104, 0, kBlock}, {1, 80, kBlock, kBlock + 5}}},
      {{"empty", DType::kF64, {3, 0}}, {{1, 500, 0, 0}}},
  };
  return manifest;
}

std::string ErrorOf(const std::string& text) {
  const auto manifest = ParseManifest(text, "folder/manifest.json");
  if (manifest.ok()) return "";
  EXPECT_TRUE(absl::IsInvalidArgument(manifest.status()));
  EXPECT_THAT(std::string(manifest.status().message()), HasSubstr("folder/manifest.json: "));
  return std::string(manifest.status().message());
}

// The error of the example's text with one passage replaced and the checksum made right.
std::string ErrorAfter(std::string_view from, std::string_view to) {
  std::string text = FormatManifest(Example());
  const size_t at = text.find(from, kChecksumEnd);
  EXPECT_NE(at, std::string::npos) << from;
  return ErrorOf(WithChecksum(text.replace(at, from.size(), to)));
}

TEST(Manifest, SurvivesItsText) {
  const std::string text = FormatManifest(Example());
  const auto parsed = ParseManifest(text, "m");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, Example());
  EXPECT_EQ(FormatManifest(*parsed), text);
  Manifest nothing;
  EXPECT_EQ(*ParseManifest(FormatManifest(nothing), "m"), nothing);
}

TEST(Manifest, EveryFlippedBitShows) {
  const std::string text = FormatManifest(Example());
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = text;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      EXPECT_FALSE(ParseManifest(flipped, "m").ok()) << "byte " << i << " bit " << bit;
    }
  }
}

TEST(Manifest, EveryTruncationShows) {
  const std::string text = FormatManifest(Example());
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_NE(ErrorOf(text.substr(0, size)), "") << size;
  }
  EXPECT_NE(ErrorOf(text + "\n"), "");
}

TEST(Manifest, RefusesNamesThatLeaveTheFolder) {
  for (const char* name : {"../secret", "/etc/passwd", "a/b", "", ".", "..", ".hidden",
                           "manifest.json", "a b", "a\\u0000b", "a\\nb", "ü"}) {
    std::string text = FormatManifest(Example());
    for (size_t at; (at = text.find("shard-00001-of-00002.safetensors")) != std::string::npos;) {
      text.replace(at, 32, name);
    }
    EXPECT_THAT(ErrorOf(WithChecksum(text)), HasSubstr("files[1].name: ")) << name;
  }
  EXPECT_THAT(ErrorAfter("\"name\":\"shard-00001", "\"name\":\"shard-00000"),
              HasSubstr("file: not one of the files"));
}

TEST(Manifest, RefusesTensorsThatAreNotCoveredExactlyOnce) {
  // The second part of "cut" begins late, early, off a block border, or ends elsewhere.
  EXPECT_THAT(ErrorAfter("\"begin\":1048576", "\"begin\":1048577"), HasSubstr("does not go on"));
  EXPECT_THAT(ErrorAfter("\"begin\":1048576", "\"begin\":0"), HasSubstr("does not go on"));
  EXPECT_THAT(ErrorAfter("\"end\":1048581", "\"end\":1048580"),
              HasSubstr("cover 1048580 of 1048581"));
  EXPECT_THAT(ErrorAfter("\"end\":1048581", "\"end\":1048582"), HasSubstr("does not go on"));
  EXPECT_THAT(ErrorAfter("\"end\":1048581", "\"end\":9223372036854775807"),
              HasSubstr("does not go on"));
  EXPECT_THAT(ErrorAfter("\"begin\":0,\"end\":4}",
                         "\"begin\":0,\"end\":4},"
                         R"({"file":"shard-00000-of-00002.safetensors","file_begin":100,)"
                         R"("begin":4,"end":4})"),
              HasSubstr("does not go on"));
  EXPECT_THAT(ErrorAfter("\"shape\":[3,0],\"parts\":[", "\"shape\":[3,0],\"parts\":[],\"x\":["),
              HasSubstr("unknown member \"x\""));
  Manifest manifest = Example();
  manifest.tensors[2].parts.clear();
  EXPECT_THAT(ErrorOf(FormatManifest(manifest)), HasSubstr("an empty tensor with 0 parts"));
  manifest = Example();
  manifest.tensors[0].parts.clear();
  EXPECT_THAT(ErrorOf(FormatManifest(manifest)), HasSubstr("cover 0 of 4"));
  manifest = Example();
  manifest.tensors[1].parts = {{0, 104, 0, 1000}, {1, 0, 1000, kDigestBlockBytes + 5}};
  EXPECT_THAT(ErrorOf(FormatManifest(manifest)), HasSubstr("not begin on a block border"));
}

TEST(Manifest, RefusesRangesOutsideTheirFileSharedOrUnaligned) {
  EXPECT_THAT(ErrorAfter("\"file_begin\":80", "\"file_begin\":496"),
              HasSubstr("ends after its 500"));
  EXPECT_THAT(ErrorAfter("\"file_begin\":80", "\"file_begin\":9223372036854775807"),
              HasSubstr("ends after its 500"));
  EXPECT_THAT(ErrorAfter("\"file_begin\":104", "\"file_begin\":103"), HasSubstr("share bytes"));
  EXPECT_THAT(ErrorAfter("\"file_begin\":100", "\"file_begin\":98"), HasSubstr("not aligned"));
}

TEST(Manifest, RefusesMistypedAbsurdMissingUnknownAndRepeatedMembers) {
  EXPECT_THAT(ErrorAfter("\"iteration\":1200", "\"iteration\":-1"),
              HasSubstr("counters.iteration: not an integer in [0, 9223372036854775807]"));
  for (const char* value : {"1.5", "1e3", "true", "null", "\"7\"", "9223372036854775808", "[1]"}) {
    EXPECT_THAT(ErrorAfter("\"iteration\":1200", fmt::format("\"iteration\":{}", value)),
                HasSubstr("counters.iteration: not an integer"))
        << value;
  }
  EXPECT_THAT(ErrorAfter("\"iteration\":1200", "\"iteration\":1e999"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorAfter("\"updates\":1198,", ""), HasSubstr("\"updates\" is missing"));
  EXPECT_THAT(ErrorAfter("\"updates\":1198", "\"updates\":1,\"updates\":1198"),
              HasSubstr("\"updates\" is given twice"));
  EXPECT_THAT(ErrorAfter("\"seed\":", "\"hidden\":1,\"seed\":"), HasSubstr("\"hidden\""));
  EXPECT_THAT(ErrorAfter("\"seed\":18446744073709551615", "\"seed\":18446744073709551616"),
              HasSubstr("seed: not an integer"));
  EXPECT_THAT(ErrorAfter("\"virtual_ranks\":4", "\"virtual_ranks\":0"), HasSubstr("virtual_ranks"));
  EXPECT_THAT(ErrorAfter("\"dtype\":\"F64\"", "\"dtype\":\"F128\""),
              HasSubstr("tensors[2].dtype: not a dtype"));
  EXPECT_THAT(ErrorAfter("[3,0]", "[3,-1]"), HasSubstr("tensors[2].shape"));
  EXPECT_THAT(ErrorAfter("[3,0]", "[4611686018427387904,4611686018427387904]"),
              HasSubstr("does not fit in 2^63 bytes"));
  EXPECT_THAT(ErrorAfter("\"shape\":[3,0]", "\"shape\":3"), HasSubstr("not an array"));
  EXPECT_THAT(ErrorAfter("\"name\":\"empty\"", "\"name\":\"temp\""), HasSubstr("given twice"));
  EXPECT_THAT(ErrorAfter("\"name\":\"empty\"", "\"name\":\"a#1\""), HasSubstr("without '#'"));
  EXPECT_THAT(ErrorAfter("\"bytes\":500", "\"bytes\":-500"), HasSubstr("files[1].bytes"));
  EXPECT_THAT(ErrorAfter("\"state_digest\":\"00", "\"state_digest\":\"0X"),
              HasSubstr("state_digest: not 32"));
  EXPECT_THAT(ErrorAfter("\"facts\":{", "\"facts\":{\"n\":1,"), HasSubstr("facts.n: not a string"));
  EXPECT_THAT(ErrorAfter("albef-checkpoint", "other"), HasSubstr("format"));
  EXPECT_THAT(ErrorAfter("\"facts\":{", "\"facts\":[{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorAfter("✓", "\xFF"), HasSubstr("not valid JSON"));
  const std::string deep(100'000, '[');
  EXPECT_NE(ErrorAfter("\"facts\":{", "\"facts\":" + deep), "");
  const std::string closed = deep + std::string(100'000, ']');
  EXPECT_THAT(ErrorAfter("\"shape\":[3,0]", "\"shape\":" + closed), HasSubstr("nested deeper"));
}

TEST(Manifest, ANewerVersionIsNotDamaged) {
  std::string text = FormatManifest(Example());
  text.replace(text.find("\"version\":1"), 11, "\"version\":2");
  const auto manifest = ParseManifest(WithChecksum(text), "m");
  EXPECT_EQ(manifest.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(manifest.status().message()), HasSubstr("format version 2"));
}

TEST(Manifest, RandomForgeriesNeverCrashAndNeverYieldAManifestThatBreaksTheRules) {
  const std::string text = FormatManifest(Example());
  RandomStream random(1, RandomPurpose::kSynthetic, 0);
  constexpr std::string_view kCharacters = "0123456789{}[]\",:-eE.\\ntfu#/ \x80\xff";
  int num_accepted = 0;
  for (int trial = 0; trial < 20'000; ++trial) {
    std::string forged = text;
    for (uint64_t edits = 1 + random.Below(3); edits > 0; --edits) {
      const size_t at = kChecksumEnd + random.Below(forged.size() - kChecksumEnd);
      switch (random.Below(3)) {
        case 0:
          forged[at] = kCharacters[random.Below(kCharacters.size())];
          break;
        case 1:
          forged.erase(at, 1 + random.Below(8));
          break;
        default:
          forged.insert(at, 1, kCharacters[random.Below(kCharacters.size())]);
      }
    }
    const auto manifest = ParseManifest(WithChecksum(forged), "m");
    if (!manifest.ok()) continue;
    ++num_accepted;
    EXPECT_TRUE(CheckManifest(*manifest).ok());
    EXPECT_EQ(*ParseManifest(FormatManifest(*manifest), "m"), *manifest);
  }
  EXPECT_GT(num_accepted, 0) << "the forgeries are too crude to test anything";
}

}  // namespace
}  // namespace albef
