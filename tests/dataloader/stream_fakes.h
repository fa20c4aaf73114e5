// A data set without files, for the tests of sample reader and batch stream.
#ifndef ALBEF_TESTS_DATALOADER_STREAM_FAKES_H_
#define ALBEF_TESTS_DATALOADER_STREAM_FAKES_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dataloader/batch_stream.h"

namespace albef {

class FakeSource : public SampleSource {
 public:
  explicit FakeSource(std::vector<Sample> samples) : samples_(std::move(samples)) {}

  int64_t size() const override { return static_cast<int64_t>(samples_.size()); }
  void Fetch(int64_t index, Sample& sample) const override {
    sample = samples_.at(static_cast<size_t>(index));
  }
  // The path stands for the content.
  absl::Status ReadImage(const Sample& sample, std::string& bytes) const override {
    bytes = sample.image_path;
    return absl::OkStatus();
  }

 private:
  std::vector<Sample> samples_;
};

// `count` samples named 0, 1, …, each with three captions of different lengths.
inline std::vector<Sample> NumberedSamples(int count) {
  std::vector<Sample> samples;
  for (int i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    samples.push_back({.image_path = number,
                       .captions = {"cat " + number, "a red dog runs near " + number,
                                    "two children and the bird in the tree over house " + number}});
  }
  return samples;
}

// Fills the image with draws and with the path, so that both show in the pixels.
class FakeImageLoader : public ImageLoader {
 public:
  // `judge`, if given, says what becomes of a path; it is called from many threads.
  explicit FakeImageLoader(std::function<absl::Status(const std::string&)> judge = {})
      : judge_(std::move(judge)) {}

  absl::Status Load(std::string_view path, RandomStream random,
                    std::span<uint8_t> image_HWC) const override {
    if (judge_) {
      if (absl::Status status = judge_(std::string(path)); !status.ok()) return status;
    }
    std::generate(image_HWC.begin(), image_HWC.end(),
                  [&] { return static_cast<uint8_t>(random.Next32()); });
    for (size_t i = 0; i < path.size(); ++i) image_HWC[i] = static_cast<uint8_t>(path[i]);
    return absl::OkStatus();
  }

 private:
  std::function<absl::Status(const std::string&)> judge_;
};

inline std::shared_ptr<const WordPieceTokenizer> OwnTokenizer() {
  auto vocabulary = Vocabulary::Load("tests/golden/text-own/vocab.txt");
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
  return std::make_shared<WordPieceTokenizer>(*std::move(vocabulary));
}

}  // namespace albef

#endif  // ALBEF_TESTS_DATALOADER_STREAM_FAKES_H_
