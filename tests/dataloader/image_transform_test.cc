#include "dataloader/image_transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::StartsWith;

constexpr int kRes = 32;
constexpr size_t kBytes = kRes * kRes * 3;

const fs::path kEncoded = "tests/golden/image-own/encoded";

RandomStream Stream(uint64_t position) {
  return RandomStream(1, RandomPurpose::kImageAugmentation, position);
}

std::vector<uint8_t> Load(const ImageLoader& loader, const fs::path& path, uint64_t position) {
  std::vector<uint8_t> image_HWC(kBytes);
  const absl::Status status = LoadImageFile(loader, path, Stream(position), image_HWC);
  EXPECT_TRUE(status.ok()) << status;
  return image_HWC;
}

TEST(TrainingImageLoader, MakesTheSameSampleOnEveryThreadWhateverCameBefore) {
  const auto loader = TrainingImageLoader::Create({.image_res = kRes});
  ASSERT_TRUE(loader.ok());
  constexpr uint64_t kSamples = 60;
  const std::vector<fs::path> paths = {kEncoded / "420.jpg", kEncoded / "rgba.png",
                                       kEncoded / "lossy.webp", kEncoded / "truncated.jpg"};
  std::vector<std::vector<uint8_t>> expected;
  for (uint64_t i = 0; i < kSamples; ++i) {
    expected.push_back(Load(*loader, paths[i % paths.size()], i));
  }
  std::vector<std::jthread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t n = 0; n < kSamples; ++n) {
        const uint64_t i = (n * 7 + t * 13) % kSamples;
        EXPECT_EQ(Load(*loader, paths[i % paths.size()], i), expected[i]) << i;
      }
    });
  }
}

TEST(TrainingImageLoader, MakesDifferentSamplesOfOneFile) {
  const auto loader = TrainingImageLoader::Create({.image_res = kRes});
  std::set<std::vector<uint8_t>> seen;
  for (uint64_t i = 0; i < 50; ++i) seen.insert(Load(*loader, kEncoded / "420.jpg", i));
  EXPECT_GE(seen.size(), 49u);
}

TEST(TrainingImageLoader, DrawsNoAugmentationWhenItIsOff) {
  const auto loader = TrainingImageLoader::Create({.image_res = kRes, .augment = false});
  for (uint64_t i = 0; i < 100; ++i) {
    for (const AugmentStep& step : loader->Sample(100, 100, Stream(i)).augment) {
      EXPECT_EQ(step.op, AugmentOp::kIdentity);
    }
  }
}

TEST(TrainingImageLoader, DrawsCropsWithinTheConfiguredScale) {
  const auto loader =
      TrainingImageLoader::Create({.image_res = kRes, .scale_min = 0.5, .scale_max = 0.6});
  for (uint64_t i = 0; i < 1000; ++i) {
    const Box box = loader->Sample(500, 500, Stream(i)).crop;
    EXPECT_NEAR(static_cast<double>(box.height) * box.width / 250000, 0.55, 0.053);
  }
}

TEST(TrainingImageLoader, RefusesOptionsOutOfRange) {
  const auto code = [](const TrainingImageLoader::Options& options) {
    return TrainingImageLoader::Create(options).status().code();
  };
  EXPECT_EQ(code({.image_res = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.image_res = 1 << 20}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.scale_min = 0.0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.scale_min = 0.7, .scale_max = 0.6}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.scale_max = 1.1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EvaluationImageLoader::Create({.image_res = -1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SampleAugment, DrawsEveryOperationAsOftenAppliedOrNotAndInBothSenses) {
  constexpr int kDraws = 40000;
  std::map<AugmentOp, int> ops;
  std::map<std::pair<AugmentOp, AugmentOp>, int> pairs;
  int applied = 0;
  int negative = 0;
  for (uint64_t i = 0; i < kDraws; ++i) {
    RandomStream random = Stream(i);
    const AugmentPlan plan = SampleAugment(random);
    for (const AugmentStep& step : plan) {
      ++ops[step.op];
      applied += step.applied;
      negative += step.negative;
    }
    ++pairs[{plan[0].op, plan[1].op}];
  }
  // Five standard deviations.
  EXPECT_EQ(ops.size(), static_cast<size_t>(kNumAugmentOps));
  for (const auto& [op, count] : ops) EXPECT_NEAR(count, 8000, 425);
  EXPECT_EQ(pairs.size(), 100u);
  for (const auto& [pair, count] : pairs) EXPECT_NEAR(count, 400, 100);
  EXPECT_NEAR(applied, 40000, 710);
  EXPECT_NEAR(negative, 40000, 710);
}

TEST(EvaluationImageLoader, ResizesTheWholePictureAndIgnoresTheStream) {
  const auto loader = EvaluationImageLoader::Create({.image_res = kRes});
  const std::vector<uint8_t> image_HWC = Load(*loader, kEncoded / "rgb.png", 1);
  EXPECT_EQ(Load(*loader, kEncoded / "rgb.png", 2), image_HWC);
  EXPECT_EQ(Load(*loader, kEncoded / "rgb.bmp", 3), image_HWC);
}

TEST(ImageLoader, TellsBadSamplesFromTroubleThatMayPass) {
  TemporaryDirectory directory;
  const auto loader = EvaluationImageLoader::Create({.image_res = kRes});
  std::vector<uint8_t> image_HWC(kBytes);
  const auto expect = [&](const fs::path& path, absl::StatusCode code) {
    const absl::Status status = LoadImageFile(*loader, path, Stream(0), image_HWC);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(path.string() + ": "));
  };
  const auto write = [&](const std::string& name, const std::string& content) {
    EXPECT_TRUE(WriteFileAtomic(directory.path() / name, content).ok());
    return directory.path() / name;
  };
  expect(directory.path() / "none.jpg", absl::StatusCode::kNotFound);
  expect(kEncoded / "420.jpg" / "below_a_file.jpg", absl::StatusCode::kNotFound);
  expect(write("zero.jpg", ""), absl::StatusCode::kInvalidArgument);
  expect(write("text.jpg", "a cat on a mat"), absl::StatusCode::kInvalidArgument);
  expect(write("header.jpg", ReadFile(kEncoded / "420.jpg")->substr(0, 50)),
         absl::StatusCode::kDataLoss);
  expect(directory.path(), absl::StatusCode::kInvalidArgument);
  expect(directory.path() / std::string(300, 'x'), absl::StatusCode::kInvalidArgument);
  // A file of a terabyte, all of it a hole.
  fs::resize_file(write("huge.jpg", "x"), uintmax_t{1} << 40);
  expect(directory.path() / "huge.jpg", absl::StatusCode::kInvalidArgument);
  // Reading from it fails with EIO.
  expect("/proc/self/mem", absl::StatusCode::kUnavailable);
}

TEST(ImageLoader, RefusesAnOutputOfAnotherSize) {
  const auto loader = EvaluationImageLoader::Create({.image_res = kRes});
  std::vector<uint8_t> image_HWC(kBytes - 1);
  EXPECT_EQ(LoadImageFile(*loader, kEncoded / "420.jpg", Stream(0), image_HWC).code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace albef
