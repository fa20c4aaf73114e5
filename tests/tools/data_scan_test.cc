#include "tools/data_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "dataloader/synthetic_image.h"
#include "dataloader/vocabulary.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class ListedSamples : public SampleSource {
 public:
  explicit ListedSamples(std::vector<Sample> samples) : samples_(std::move(samples)) {}
  int64_t size() const override { return static_cast<int64_t>(samples_.size()); }
  void Fetch(int64_t index, Sample& sample) const override {
    sample = samples_[static_cast<size_t>(index)];
  }

 private:
  std::vector<Sample> samples_;
};

// A folder with good.jpg and a tokenizer that knows "red" and "square".
struct Dataset {
  Dataset() {
    Image image;
    image.Resize(20, 30);
    EXPECT_TRUE(WriteFileAtomic(path("good.jpg"), *EncodeJpeg(image.view(), 90)).ok());
    EXPECT_TRUE(
        WriteFileAtomic(path("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nsquare\n")
            .ok());
    tokenizer = std::make_unique<WordPieceTokenizer>(*Vocabulary::Load(path("vocab.txt")));
  }

  fs::path path(const char* name) const { return directory.path() / name; }

  DataScan Scan(std::vector<Sample> samples, const DataScanOptions& options = {}) const {
    const absl::StatusOr<DataScan> scan =
        ScanData(ListedSamples(std::move(samples)), *tokenizer, options);
    EXPECT_TRUE(scan.ok()) << scan.status();
    return scan.value_or(DataScan());
  }

  TemporaryDirectory directory;
  std::unique_ptr<WordPieceTokenizer> tokenizer;
};

TEST(DataScan, CountsImagesOnceAndAllCaptions) {
  const Dataset dataset;
  const DataScan scan = dataset.Scan({{dataset.path("good.jpg"), {"red square", "a red square"}},
                                      {dataset.path("good.jpg"), {"Square."}}});
  EXPECT_EQ(scan.num_samples, 2);
  EXPECT_EQ(scan.num_images, 1);
  EXPECT_EQ(scan.num_captions, 3);
  EXPECT_EQ(scan.bad_fraction, 0);
  EXPECT_TRUE(scan.faults.empty());
  EXPECT_EQ(scan.caption_tokens.Percentile(0), 2);
  EXPECT_EQ(scan.caption_tokens.Percentile(0.5), 3);
  EXPECT_EQ(scan.caption_tokens.Percentile(1), 4);
  EXPECT_DOUBLE_EQ(scan.caption_tokens.Mean(), 3);
  EXPECT_EQ(scan.num_pieces, 6);
  EXPECT_EQ(scan.num_unknown, 1);  // "a"
}

TEST(DataScan, SaysWhatIsWrongWithImages) {
  const Dataset dataset;
  ASSERT_TRUE(WriteFileAtomic(dataset.path("text.jpg"), "these are no pixels").ok());
  ASSERT_TRUE(WriteFileAtomic(dataset.path("empty.jpg"), "").ok());
  const std::string jpeg = *ReadFile(dataset.path("good.jpg"));
  ASSERT_TRUE(WriteFileAtomic(dataset.path("header.jpg"), jpeg.substr(0, 30)).ok());
  std::vector<Sample> samples;
  for (const char* name : {"missing.jpg", "good.jpg", "text.jpg", "empty.jpg", "header.jpg"}) {
    samples.push_back({dataset.path(name), {"red"}});
  }
  for (const int num_threads : {1, 4}) {
    DataScanOptions options;
    options.num_threads = num_threads;
    options.max_examples = 2;
    const DataScan scan = dataset.Scan(samples, options);
    EXPECT_EQ(scan.num_bad_images, 4);
    EXPECT_EQ(scan.num_bad_captions, 0);
    EXPECT_DOUBLE_EQ(scan.bad_fraction, 0.8);
    int64_t faults = 0;
    for (const auto& [reason, count] : scan.faults) faults += count;
    EXPECT_EQ(faults, 4);
    EXPECT_EQ(scan.faults.at("missing_image"), 1);
    ASSERT_EQ(scan.examples.size(), 2u);
    EXPECT_EQ(scan.examples[0].sample_index, 0);
    EXPECT_EQ(scan.examples[0].reason, "missing_image");
    EXPECT_THAT(scan.examples[0].image, HasSubstr("missing.jpg"));
    EXPECT_EQ(scan.examples[1].sample_index, 2);
  }
}

TEST(DataScan, SaysWhatIsWrongWithCaptions) {
  const Dataset dataset;
  const DataScan scan =
      dataset.Scan({{dataset.path("good.jpg"), {}},
                    {dataset.path("good.jpg"), {"red", "\xff\xfe", " ?! ", "red"}},
                    {dataset.path("good.jpg"), {"red"}},
                    {dataset.path("good.jpg"), {"square"}}});
  EXPECT_THAT(scan.faults, UnorderedElementsAre(Pair("empty_caption", 2), Pair("invalid_utf8", 1)));
  EXPECT_EQ(scan.num_captions, 6);
  EXPECT_EQ(scan.num_bad_captions, 2);
  // The first sample always, the second every other time.
  EXPECT_DOUBLE_EQ(scan.bad_fraction, 1.5 / 4);
  EXPECT_EQ(scan.caption_tokens.total(), 4);
}

TEST(DataScan, CountsCaptionsThatLoseTokensOrWords) {
  const Dataset dataset;
  const std::vector<Sample> samples = {
      {dataset.path("good.jpg"), {"red red red", "red red red red", "red red red red red"}}};
  DataScanOptions options;
  options.max_text_length = 5;
  EXPECT_EQ(dataset.Scan(samples, options).num_truncated, 1);
  options.max_words = 3;
  EXPECT_EQ(dataset.Scan(samples, options).num_truncated, 2);
  EXPECT_EQ(dataset.Scan(samples, options).caption_tokens.Percentile(1), 6);
}

TEST(DataScan, StopsAtTheLimit) {
  const Dataset dataset;
  DataScanOptions options;
  options.limit = 1;
  const DataScan scan = dataset.Scan(
      {{dataset.path("good.jpg"), {"red"}}, {dataset.path("missing.jpg"), {"red"}}}, options);
  EXPECT_EQ(scan.num_samples, 1);
  EXPECT_EQ(scan.bad_fraction, 0);
}

TEST(Histogram, GivesMeanAndPercentiles) {
  Histogram histogram;
  EXPECT_EQ(histogram.Mean(), 0);
  EXPECT_EQ(histogram.Percentile(0.5), 0);
  for (int64_t value = 1; value <= 100; ++value) histogram.Add(value);
  EXPECT_DOUBLE_EQ(histogram.Mean(), 50.5);
  EXPECT_THAT((std::vector{histogram.Percentile(0), histogram.Percentile(0.5),
                           histogram.Percentile(0.95), histogram.Percentile(1)}),
              ElementsAre(1, 50, 95, 100));
}

}  // namespace
}  // namespace albef
