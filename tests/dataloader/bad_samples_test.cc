// Bad content in real files, through annotations, decoder and stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file.h"
#include "dataloader/batch_stream.h"
#include "dataloader/image_transform.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/synthetic_image.h"
#include "tests/dataloader/stream_fakes.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Jpeg(int height, int width) {
  std::vector<uint8_t> pixels(static_cast<size_t>(height * width) * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
  auto jpeg = EncodeJpeg({.height = height, .width = width, .rgb_HWC = pixels}, 90);
  EXPECT_TRUE(jpeg.ok()) << jpeg.status();
  return *std::move(jpeg);
}

// The picture, but for a frame header that says 60000 × 60000.
std::string WithAbsurdSize(std::string jpeg) {
  const size_t frame = jpeg.find("\xFF\xC0");
  EXPECT_NE(frame, std::string::npos);
  for (const size_t at : {frame + 5, frame + 7}) jpeg.replace(at, 2, "\xEA\x60");
  return jpeg;
}

class BadSamples : public ::testing::Test {
 protected:
  // Sixteen good pairs, then one for each kind of bad content.
  void SetUp() override {
    const std::string jpeg = Jpeg(40, 60);
    for (int i = 0; i < 16; ++i) Add("good" + std::to_string(i) + ".jpg", jpeg, "a red cat");
    AddEntry("missing.jpg", "a cat");
    fs::create_directory(directory_.path() / "folder.jpg");
    AddEntry("folder.jpg", "a cat");
    // Nobody will ever write into it.
    ASSERT_EQ(::mkfifo((directory_.path() / "pipe.jpg").c_str(), 0600), 0);
    AddEntry("pipe.jpg", "a cat");
    AddEntry("/dev/zero", "a cat");
    Add("truncated.jpg", jpeg.substr(0, 300), "a cat");
    Add("text.jpg", "This is no picture.\n", "a cat");
    Add("zero.jpg", "", "a cat");
    Add("absurd.jpg", WithAbsurdSize(jpeg), "a cat");
    Add("empty_caption.jpg", jpeg, " ?! ");
    Add("invalid_utf8.jpg", jpeg, "a caf\xE9");
    std::ofstream(directory_.path() / "train.json", std::ios::binary) << "[" << entries_ << "]";
  }

  void Add(const std::string& image, const std::string& content, const std::string& caption) {
    std::ofstream(directory_.path() / image, std::ios::binary) << content;
    AddEntry(image, caption);
  }
  void AddEntry(const std::string& image, const std::string& caption) {
    if (!entries_.empty()) entries_ += ",\n";
    entries_ += R"({"image": ")" + image + R"(", "caption": ")" + caption + "\"}";
  }

  BatchStream::Options Options() {
    const fs::path file = directory_.path() / "train.json";
    auto annotations = IndexedSamples::Open({&file, 1}, directory_.path());
    EXPECT_TRUE(annotations.ok()) << annotations.status();
    auto loader = TrainingImageLoader::Create({.image_res = 32});
    EXPECT_TRUE(loader.ok()) << loader.status();
    BatchStream::Options options;
    options.plan = *EpochPlan::Create({.num_samples = annotations->size(), .batch_size = 1});
    options.source = std::make_shared<IndexedSamples>(*std::move(annotations));
    options.tokenizer = OwnTokenizer();
    options.image_loader = std::make_shared<TrainingImageLoader>(*std::move(loader));
    options.image_res = 32;
    options.num_threads = 2;
    options.end_iteration = options.plan->steps_per_epoch();
    options.max_bad_fraction = 0.5;
    return options;
  }

  TemporaryDirectory directory_;
  std::string entries_;
};

TEST_F(BadSamples, EachKindIsLoggedOnceAnEpochAndReplacedByAGoodOne) {
  std::vector<std::string> log;
  BatchStream::Options options = Options();
  options.on_bad_sample = [&](const BadSample& bad) { log.push_back(ToJson(bad)); };
  auto stream = BatchStream::Create(options);
  ASSERT_TRUE(stream.ok()) << stream.status();
  for (int64_t i = 0; i < options.end_iteration; ++i) {
    const auto batch = (*stream)->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_LT((*batch)->sample_index_B[0], 16);
  }

  std::map<std::string, std::string> reasons;  // by file, of the samples that stood in the order
  int64_t last_position = -1;
  std::map<std::string, int64_t> count;
  for (const std::string& text : log) {
    const auto line = nlohmann::json::parse(text);
    ++count[line["reason"]];
    if (line["position"] != last_position) {
      const fs::path image = line["image"].get<std::string>();
      reasons[image == "/dev/zero" ? image.string() : image.stem().string()] = line["reason"];
    }
    last_position = line["position"];
    EXPECT_TRUE(fs::path(line["substitute"].get<std::string>()).is_absolute());
    EXPECT_FALSE(line["detail"].get<std::string>().empty());
  }
  const std::map<std::string, std::string> expected = {
      {"/dev/zero", "invalid_image"},     {"absurd", "invalid_image"},
      {"empty_caption", "empty_caption"}, {"folder", "invalid_image"},
      {"invalid_utf8", "invalid_utf8"},   {"missing", "missing_image"},
      {"pipe", "invalid_image"},          {"text", "invalid_image"},
      {"truncated", "damaged_image"},     {"zero", "invalid_image"}};
  EXPECT_EQ(reasons, expected);
  EXPECT_EQ(count, (*stream)->statistics().bad_samples);
}

TEST_F(BadSamples, TooManyEndTheStreamWithTheirNames) {
  BatchStream::Options options = Options();
  options.max_bad_fraction = 0.25;  // 10 of 26 are bad
  auto stream = BatchStream::Create(options);
  ASSERT_TRUE(stream.ok()) << stream.status();
  absl::Status status;
  while (status.ok()) status = (*stream)->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("10 of 26 samples are bad"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory_.path().string()));
}

TEST(ToJson, WritesOneLineForAnyName) {
  EXPECT_THAT(ToJson({.image = "caf\xE9\n.jpg", .reason = "missing_image"}),
              AllOf(HasSubstr("\"image\":\"caf\uFFFD\\n.jpg\",\"reason\":\"missing_image\""),
                    Not(HasSubstr("\n"))));
}

}  // namespace
}  // namespace albef
