#include "dataloader/sample_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "common/random.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr FileIdentity kIndexed{.size = 7, .mtime_ns = -5, .hash_low = 3, .hash_high = 4};

struct Row {
  std::string image;
  std::optional<SampleIndexWriter::Place> place;
  std::vector<std::string> captions;
};

// Some thousand rows with texts of all lengths, empty ones and none.
std::vector<Row> Rows(size_t count) {
  std::vector<Row> rows;
  RandomStream random(1, RandomPurpose::kSynthetic, count);
  for (size_t i = 0; i < count; ++i) {
    Row row{.image = "image-" + std::to_string(i), .place = {}, .captions = {}};
    if (random.Bernoulli(0.3)) row.place = {random.Next64() >> 1, random.Next32()};
    for (uint64_t n = random.Below(4); n > 0; --n) {
      row.captions.push_back(std::string(random.Below(300), static_cast<char>('a' + n)));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void Write(const fs::path& path, const std::vector<Row>& rows) {
  auto writer = SampleIndexWriter::Create(path);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const Row& row : rows) ASSERT_TRUE(writer->Add(row.image, row.place, row.captions).ok());
  const absl::Status status = writer->Finish(kIndexed);
  ASSERT_TRUE(status.ok()) << status;
}

void ExpectEqual(const SampleIndex& index, int64_t i, const Row& row) {
  const SampleIndex::Record record = index.Get(i);
  EXPECT_EQ(record.image, row.image);
  ASSERT_EQ(record.place.has_value(), row.place.has_value());
  if (row.place) {
    EXPECT_EQ(record.place->offset, row.place->offset);
    EXPECT_EQ(record.place->size, row.place->size);
  }
  std::vector<std::string> captions;
  std::string_view rest = record.captions;
  for (std::string_view caption; SampleIndex::NextCaption(rest, caption);) {
    captions.emplace_back(caption);
  }
  EXPECT_EQ(captions, row.captions);
}

TEST(SampleIndex, GivesBackWhatWasWritten) {
  TemporaryDirectory directory;
  for (const size_t count : {0, 1, 2, 1023, 1024, 1025, 5000}) {
    const std::vector<Row> rows = Rows(count);
    const fs::path path = directory.path() / std::to_string(count);
    Write(path, rows);
    const auto index = SampleIndex::Open(path);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->indexed(), kIndexed);
    ASSERT_EQ(index->size(), static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) ExpectEqual(*index, static_cast<int64_t>(i), rows[i]);
  }
}

TEST(SampleIndex, DoesNotExistBeforeItIsFinished) {
  TemporaryDirectory directory;
  {
    auto writer = SampleIndexWriter::Create(directory.path() / "index");
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(writer->Add("a", std::nullopt, {}).ok());
    EXPECT_FALSE(fs::exists(directory.path() / "index"));
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

// Every prefix, and every byte changed.
TEST(SampleIndex, NoticesAnyDamage) {
  TemporaryDirectory directory;
  Write(directory.path() / "whole", {{"a.jpg", std::nullopt, {"one", "two"}},
                                     {"b.jpg", SampleIndexWriter::Place{512, 99}, {"three"}}});
  const std::string whole = *ReadFile(directory.path() / "whole");
  const fs::path path = directory.path() / "damaged";
  const auto expect_damage = [&](const std::string& content, size_t at) {
    ASSERT_TRUE(WriteFileAtomic(path, content).ok());
    const absl::Status status = SampleIndex::Open(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << at << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("damaged: "));
  };
  for (size_t size = 0; size < whole.size(); ++size) expect_damage(whole.substr(0, size), size);
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char flip : {'\x01', '\x80', '\xFF'}) {
      std::string content = whole;
      content[i] = static_cast<char>(content[i] ^ flip);
      expect_damage(content, i);
    }
  }
  expect_damage(whole + "x", whole.size());
  expect_damage(whole + whole, whole.size());
}

}  // namespace
}  // namespace albef
