#include "formats/zip.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "formats/zip_format.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

using Entries = std::vector<std::pair<std::string, std::string>>;

std::string Archive(const Entries& entries, ZipWriter::Options options = {}) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.zip";
  auto zip = ZipWriter::Create(path, options);
  EXPECT_TRUE(zip.ok()) << zip.status();
  for (const auto& [name, content] : entries) {
    EXPECT_TRUE(zip->Add(name, std::as_bytes(std::span(content))).ok());
  }
  EXPECT_TRUE(zip->Commit().ok());
  return *ReadFile(path);
}

absl::StatusOr<ZipReader> Parse(const std::string& archive) {
  return ZipReader::Parse(std::as_bytes(std::span(archive)), "x.zip");
}

std::string Error(const std::string& archive) {
  const absl::Status status = Parse(archive).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("x.zip: "));
  return std::string(status.message());
}

std::string Content(const ZipReader& zip, std::string_view entry) {
  const auto bytes = zip.Read(entry);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : "";
}

// Places of the n-th record with a signature, and changes at an offset from there.
class Patch {
 public:
  explicit Patch(std::string archive) : archive_(std::move(archive)) {}

  template <typename T>
  Patch& Set(uint32_t signature, int n, size_t offset, T value) {
    std::memcpy(&archive_[Find(signature, n) + offset], &value, sizeof(T));
    return *this;
  }

  size_t Find(uint32_t signature, int n) const {
    const std::string raw(reinterpret_cast<const char*>(&signature), sizeof(signature));
    size_t at = archive_.find(raw);
    while (n-- > 0) at = archive_.find(raw, at + 1);
    EXPECT_NE(at, std::string::npos);
    return at;
  }

  const std::string& archive() const { return archive_; }

 private:
  std::string archive_;
};

const Entries kEntries = {
    {"a/data.pkl", "pickle"}, {"a/data/0", std::string(1000, 'x')}, {"e", ""}};

TEST(Zip, WhatIsWrittenIsReadBackAlignedWithAndWithoutZip64) {
  for (const uint64_t threshold : {uint64_t{0}, uint64_t{500}, uint64_t{0xffffffff}}) {
    SCOPED_TRACE(threshold);
    const std::string archive = Archive(kEntries, {.zip64_threshold = threshold});
    const auto zip = Parse(archive);
    ASSERT_TRUE(zip.ok()) << zip.status();
    ASSERT_EQ(zip->entries().size(), kEntries.size());
    for (const auto& [name, content] : kEntries) {
      EXPECT_EQ(Content(*zip, name), content);
      const auto* begin = reinterpret_cast<const char*>(zip->Read(name)->data());
      EXPECT_EQ((begin - archive.data()) % 64, 0) << name;
    }
  }
}

TEST(Zip, ReadsMoreEntriesThan16BitsCount) {
  Entries entries;
  for (int i = 0; i < 66'000; ++i) entries.emplace_back(std::to_string(i), "");
  const std::string archive = Archive(entries);
  const auto zip = Parse(archive);
  ASSERT_TRUE(zip.ok()) << zip.status();
  EXPECT_EQ(zip->entries().size(), entries.size());
}

TEST(Zip, AnEmptyArchiveAndACommentAreFine) {
  const std::string empty = Archive({});
  EXPECT_TRUE(ZipReader::LooksLikeZip(std::as_bytes(std::span(empty))));
  EXPECT_TRUE(Parse(empty).ok());
  Patch commented(Archive(kEntries) + "hello");
  commented.Set(zip::kEndSignature, 0, 20, uint16_t{5});
  EXPECT_TRUE(Parse(commented.archive()).ok());
}

TEST(Zip, AMissingEntryNamesFileAndEntry) {
  const std::string archive = Archive(kEntries);
  const absl::Status status = Parse(archive)->Read("data/7").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "x.zip: no entry \"data/7\" in the archive");
}

TEST(Zip, NoticesEveryFlippedBitOfTheData) {
  const std::string archive = Archive(kEntries);
  const size_t begin = archive.find("pickle", archive.find("a/data.pkl") + 10);
  for (size_t bit = 0; bit < 6 * 8; ++bit) {
    std::string damaged = archive;
    damaged[begin + bit / 8] = static_cast<char>(damaged[begin + bit / 8] ^ (1 << bit % 8));
    const auto zip = Parse(damaged);
    ASSERT_TRUE(zip.ok());
    const absl::Status status = zip->Read("a/data.pkl").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("entry \"a/data.pkl\" is damaged"));
  }
}

TEST(Zip, RefusesEveryTruncation) {
  for (const uint64_t threshold : {uint64_t{0}, uint64_t{0xffffffff}}) {
    const std::string archive = Archive(kEntries, {.zip64_threshold = threshold});
    for (size_t size = 0; size < archive.size(); ++size) {
      EXPECT_FALSE(Parse(archive.substr(0, size)).ok()) << size;
    }
  }
}

TEST(Zip, RefusesCompressedEntriesSoNoneIsLargerInsideThanOutside) {
  Patch deflated(Archive(kEntries));
  deflated.Set(zip::kLocalSignature, 1, 8, uint16_t{8})
      .Set(zip::kCentralSignature, 1, 10, uint16_t{8})
      .Set(zip::kCentralSignature, 1, 24, uint32_t{4'000'000'000});
  EXPECT_THAT(Error(deflated.archive()), HasSubstr("entry \"a/data/0\": compressed by method 8"));
  Patch longer(Archive(kEntries));
  longer.Set(zip::kCentralSignature, 1, 24, uint32_t{4'000'000'000});
  EXPECT_THAT(Error(longer.archive()), HasSubstr("stored, but its two sizes differ"));
  Patch encrypted(Archive(kEntries));
  encrypted.Set(zip::kCentralSignature, 0, 8, uint16_t{1});
  EXPECT_THAT(Error(encrypted.archive()), HasSubstr("encrypted"));
}

TEST(Zip, RefusesNamesGivenTwice) {
  Patch twice(Archive({{"aa", "1"}, {"ab", "2"}}));
  twice.Set(zip::kLocalSignature, 1, 31, 'a').Set(zip::kCentralSignature, 1, 47, 'a');
  EXPECT_THAT(Error(twice.archive()), HasSubstr("entry \"aa\" is there twice"));
}

TEST(Zip, EscapesNamesThatAreNotUtf8InItsErrors) {
  constexpr std::array kName = {'\xf4', '\xf4', 'x'};
  Patch foreign(Archive({{"abc", "1"}}));
  foreign.Set(zip::kCentralSignature, 0, zip::kCentralBytes, kName);
  EXPECT_THAT(Error(foreign.archive()),
              HasSubstr("entry \"\\xf4\\xf4x\": its header contradicts the directory"));
  foreign.Set(zip::kLocalSignature, 0, zip::kLocalBytes, kName)
      .Set(zip::kCentralSignature, 0, 42, uint32_t{0xfffffff0});
  EXPECT_THAT(Error(foreign.archive()), HasSubstr("entry \"\\xf4\\xf4x\" begins at 4294967280"));
}

TEST(Zip, RefusesOverlappingEntries) {
  const std::string archive = Archive(kEntries);
  // Two directory entries for the same bytes.
  Patch same(Archive({{"aa", "1"}, {"ab", "2"}}));
  same.Set(zip::kCentralSignature, 1, 42, uint32_t{0});
  EXPECT_THAT(Error(same.archive()), HasSubstr("no header at 0"));
  // The first reaches into the second.
  Patch longer(archive);
  longer.Set(zip::kCentralSignature, 0, 20, uint32_t{500})
      .Set(zip::kCentralSignature, 0, 24, uint32_t{500})
      .Set(zip::kLocalSignature, 0, 22, uint32_t{500});
  EXPECT_THAT(Error(longer.archive()), HasSubstr("entry \"a/data.pkl\": its 500 bytes reach into"));
  // The last reaches into the directory.
  Patch last(archive);
  last.Set(zip::kCentralSignature, 2, 20, uint32_t{1})
      .Set(zip::kCentralSignature, 2, 24, uint32_t{1});
  EXPECT_THAT(Error(last.archive()), HasSubstr("reach into"));
}

TEST(Zip, RefusesHeadersThatContradictTheDirectory) {
  const std::string archive = Archive(kEntries);
  EXPECT_THAT(Error(Patch(archive).Set(zip::kLocalSignature, 0, 30, 'b').archive()),
              HasSubstr("contradicts"));
  EXPECT_THAT(Error(Patch(archive).Set(zip::kLocalSignature, 0, 14, uint32_t{0}).archive()),
              HasSubstr("contradicts"));
  EXPECT_THAT(Error(Patch(archive).Set(zip::kLocalSignature, 0, 22, uint32_t{5}).archive()),
              HasSubstr("contradicts"));
  EXPECT_THAT(Error(Patch(archive).Set(zip::kLocalSignature, 0, 8, uint16_t{8}).archive()),
              HasSubstr("contradicts"));
}

TEST(Zip, RefusesAbsurdNumbers) {
  const std::string archive = Archive(kEntries);
  const auto with = [&archive](uint32_t signature, size_t offset, auto value) {
    return Error(Patch(archive).Set(signature, 0, offset, value).archive());
  };
  EXPECT_THAT(with(zip::kEndSignature, 16, uint32_t{0xfffffffe}), HasSubstr("not within"));
  EXPECT_THAT(with(zip::kEndSignature, 12, uint32_t{0xfffffffe}), HasSubstr("not within"));
  EXPECT_THAT(with(zip::kEndSignature, 10, uint16_t{0xffff}), HasSubstr("do not fit"));
  EXPECT_THAT(with(zip::kEndSignature, 10, uint16_t{4}), HasSubstr("4 entries do not fit"));
  EXPECT_THAT(with(zip::kCentralSignature, 0, uint32_t{0}), HasSubstr("entry 0 of 3 is damaged"));
  EXPECT_THAT(with(zip::kEndSignature, 10, uint16_t{2}), HasSubstr("bytes after the last"));
  EXPECT_THAT(with(zip::kEndSignature, 4, uint16_t{1}), HasSubstr("split archive"));
  EXPECT_THAT(with(zip::kCentralSignature, 28, uint16_t{0xffff}), HasSubstr("truncated"));
  EXPECT_THAT(with(zip::kCentralSignature, 42, uint32_t{0xfffffff0}), HasSubstr("not before"));
  EXPECT_THAT(with(zip::kLocalSignature, 26, uint16_t{0xffff}), HasSubstr("reach into"));

  const std::string large = Archive(kEntries, {.zip64_threshold = 0});
  const auto with64 = [&large](uint32_t signature, size_t offset, uint64_t value) {
    return Error(Patch(large).Set(signature, 0, offset, value).archive());
  };
  EXPECT_THAT(with64(zip::kEnd64LocatorSignature, 8, ~uint64_t{0}), HasSubstr("locator"));
  EXPECT_THAT(with64(zip::kEnd64Signature, 48, ~uint64_t{0}), HasSubstr("not within"));
  EXPECT_THAT(with64(zip::kEnd64Signature, 40, ~uint64_t{0}), HasSubstr("not within"));
  EXPECT_THAT(with64(zip::kEnd64Signature, 32, ~uint64_t{0}), HasSubstr("do not fit"));
  // Size, compressed size and offset in the first ZIP64 field of the directory.
  const size_t field = zip::kCentralBytes + kEntries[0].first.size() + 4;
  EXPECT_THAT(with64(zip::kCentralSignature, field, ~uint64_t{0}), HasSubstr("two sizes differ"));
  EXPECT_THAT(with64(zip::kCentralSignature, field + 16, ~uint64_t{0}), HasSubstr("not before"));
  const std::string short_field =
      Patch(large).Set(zip::kCentralSignature, 0, field - 2, uint16_t{8}).archive();
  EXPECT_THAT(Error(short_field), HasSubstr("ZIP64 field is too short"));
}

TEST(ZipWriter, RefusesNamesGivenTwiceAndLeavesNothingWithoutCommit) {
  TemporaryDirectory directory;
  {
    auto zip = ZipWriter::Create(directory.path() / "a.zip");
    ASSERT_TRUE(zip.ok());
    EXPECT_TRUE(zip->Add("a", {}).ok());
    EXPECT_EQ(zip->Add("a", {}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(zip->Add("", {}).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

}  // namespace
}  // namespace albef
