// Every picture of the image fixtures, exactly.
#include "tests/dataloader/image_golden.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/file.h"
#include "dataloader/crop.h"
#include "dataloader/image_decode.h"
#include "dataloader/image_transform.h"
#include "dataloader/normalize.h"
#include "dataloader/resize.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Image Resized(ImageView source, const Box& box, int height, int width) {
  Image output;
  output.Resize(height, width);
  CropAndResize(source, box, output.mutable_view());
  return output;
}

Box BoxFromJson(const json& box) {
  return {box.at("top"), box.at("left"), box.at("height"), box.at("width")};
}

class ImageFixture : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const bool own = GetParam() == std::string("Own");
    const fs::path folder = own ? ImageGolden::OwnFolder() : ImageGolden::SharedFolder();
    if (!own && !fs::exists(folder)) {
      GTEST_SKIP() << folder << " does not exist; set ALBEF_GOLDENS to a folder that has image/";
    }
    golden_.emplace(folder);
  }

  std::optional<ImageGolden> golden_;
};

INSTANTIATE_TEST_SUITE_P(Golden, ImageFixture, ::testing::Values("Own", "Shared"),
                         [](const auto& fixture) { return std::string(fixture.param); });

TEST_P(ImageFixture, ResizingIsExact) {
  int num_cases = 0;
  for (const NamedTensor& expected : golden_->Open("resize.safetensors").tensors()) {
    const std::string source = expected.name.substr(expected.name.find('.') + 1);
    const Image input = golden_->Picture("inputs.safetensors:rgb." + source);
    const Image output = golden_->Picture("resize.safetensors:" + expected.name);
    const Box all{.height = input.height, .width = input.width};
    EXPECT_EQ(
        Difference(Resized(input.view(), all, output.height, output.width).view(), output.view()),
        "")
        << expected.name;
    ++num_cases;
  }
  EXPECT_GE(num_cases, 10);
}

TEST_P(ImageFixture, CroppingThenResizingIsExact) {
  const json cases = golden_->Json("crop_resize.json").at("cases");
  EXPECT_GE(cases.size(), 10u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Image input =
        golden_->Picture("inputs.safetensors:" + cases[i].at("image").get<std::string>());
    const Image expected = golden_->Picture("crop_resize.safetensors:out", i);
    const Image output =
        Resized(input.view(), BoxFromJson(cases[i]), expected.height, expected.width);
    EXPECT_EQ(Difference(output.view(), expected.view()), "") << cases[i];
  }
}

TEST_P(ImageFixture, EveryAugmentationIsExact) {
  const json cases = golden_->Json("randaugment.json").at("cases");
  EXPECT_GE(cases.size(), 30u);
  std::vector<uint8_t> scratch;
  for (const json& c : cases) {
    Image image = golden_->Picture(c.at("input"));
    const std::string kind = c.at("kind");
    const auto apply = [&](ImageCompat compat, MutableImageView view) {
      ApplyAugment({.op = AugmentOpFromName(c.at("op")), .negative = kind == "neg"}, compat, view,
                   scratch);
    };
    if (kind == "pos" || kind == "neg") {
      // The geometric operations have no defect to choose.
      Image other = image;
      apply(ImageCompat::kOfficial, other.mutable_view());
      apply(ImageCompat::kCorrected, image.mutable_view());
      EXPECT_EQ(Difference(image.view(), other.view()), "") << c;
    } else {
      apply(kind == "official" ? ImageCompat::kOfficial : ImageCompat::kCorrected,
            image.mutable_view());
    }
    if (c.contains("expected")) {
      const Image expected =
          golden_->Picture("randaugment.safetensors:" + c.at("expected").get<std::string>());
      EXPECT_EQ(Difference(image.view(), expected.view()), "") << c;
    }
    if (c.contains("expected_rows")) {
      const Image expected =
          golden_->Picture("randaugment.safetensors:" + c.at("expected_rows").get<std::string>());
      const TensorView rows = golden_->Tensor("randaugment.safetensors:rows");
      ASSERT_EQ(rows.shape, std::vector<int64_t>{expected.height});
      Image actual;
      actual.Resize(expected.height, expected.width);
      for (int i = 0; i < expected.height; ++i) {
        int32_t y = 0;
        std::memcpy(&y, rows.bytes.data() + static_cast<size_t>(i) * sizeof(y), sizeof(y));
        std::memcpy(actual.mutable_view().row(i), image.view().row(y), expected.view().row_bytes());
      }
      EXPECT_EQ(Difference(actual.view(), expected.view()), "") << c;
    }
    EXPECT_EQ(crc32(0, image.rgb_HWC.data(), static_cast<uInt>(image.rgb_HWC.size())),
              c.at("crc32").get<uint32_t>())
        << c;
  }
}

TEST_P(ImageFixture, ChainsOfTransformsAreExact) {
  const json pipeline = golden_->Json("pipeline.json");
  const int image_res = pipeline.at("out_size");
  const auto picture = [&](const json& key) {
    return golden_->Picture("pipeline.safetensors:" + key.get<std::string>());
  };
  const auto run = [&](const TrainingTransform& transform, ImageCompat compat, ImageView source) {
    Image output;
    output.Resize(image_res, image_res);
    TrainingImageLoader::Create({.image_res = image_res, .compat = compat})
        ->Apply(transform, source, output.mutable_view());
    return output;
  };
  EXPECT_GE(pipeline.at("cases").size(), 3u);
  for (const json& c : pipeline.at("cases")) {
    const Image source = golden_->Picture("inputs.safetensors:" + c.at("image").get<std::string>());
    TrainingTransform transform{.crop = BoxFromJson(c), .flip = c.at("flip"), .augment = {}};
    const Image crop_flip = run(transform, ImageCompat::kCorrected, source.view());
    EXPECT_EQ(Difference(crop_flip.view(), picture(c.at("crop_flip")).view()), "") << c;

    ASSERT_EQ(c.at("ops").size(), transform.augment.size());
    for (size_t i = 0; i < transform.augment.size(); ++i) {
      const json& op = c.at("ops")[i];
      transform.augment[i] = {.op = AugmentOpFromName(op.at("op")),
                              .negative = op.at("negative"),
                              .applied = op.at("applied")};
    }
    const Image official = run(transform, ImageCompat::kOfficial, source.view());
    EXPECT_EQ(Difference(official.view(), picture(c.at("augmented")).view()), "") << c;
    const json& corrected_key = c.at("corrected").is_null() ? c.at("augmented") : c.at("corrected");
    const Image corrected = run(transform, ImageCompat::kCorrected, source.view());
    EXPECT_EQ(Difference(corrected.view(), picture(corrected_key).view()), "") << c;

    if (c.at("final").is_null()) continue;
    const TensorView expected =
        golden_->Tensor("pipeline.safetensors:" + c.at("final").get<std::string>());
    std::vector<float> normalised(official.rgb_HWC.size());
    Normalize(official.view(), normalised);
    ASSERT_EQ(expected.bytes.size(), normalised.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(normalised.data(), expected.bytes.data(), expected.bytes.size()), 0) << c;
  }
}

TEST_P(ImageFixture, NormalisationIsExact) {
  const json pipeline = golden_->Json("pipeline.json");
  EXPECT_EQ((pipeline.at("mean").get<std::array<float, 3>>()), kImageMean);
  EXPECT_EQ((pipeline.at("std").get<std::array<float, 3>>()), kImageStd);
  for (const std::string name : {"normalize.", "normalize.ramp_"}) {
    const Image input = golden_->Picture("pipeline.safetensors:" + name + "in");
    const TensorView expected = golden_->Tensor("pipeline.safetensors:" + name + "out");
    std::vector<float> output(input.rgb_HWC.size());
    Normalize(input.view(), output);
    ASSERT_EQ(expected.bytes.size(), output.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(output.data(), expected.bytes.data(), expected.bytes.size()), 0) << name;
  }
}

TEST_P(ImageFixture, EveryEncodedFileDecodesExactly) {
  const json cases = golden_->Json("to_rgb.json");
  size_t num_files = 0;
  for (const auto& entry : fs::directory_iterator(golden_->folder() / "encoded")) {
    num_files += entry.is_regular_file() ? 1 : 0;
  }
  EXPECT_EQ(cases.size(), num_files);
  EXPECT_GE(num_files, 20u);
  for (const json& c : cases) {
    const std::string name = c.at("file");
    for (const ImageCompat compat : {ImageCompat::kOfficial, ImageCompat::kCorrected}) {
      Image image;
      const absl::Status status = ReadImage(golden_->folder() / "encoded" / name, compat, image);
      ASSERT_TRUE(status.ok()) << status;
      const char* key =
          compat == ImageCompat::kCorrected && c.contains("corrected") ? "corrected" : "rgb";
      EXPECT_EQ(Difference(image.view(), golden_->Picture(c.at(key)).view()), "") << name;
      if (c.contains("rows_from_here_are_128")) {
        const size_t start =
            c.at("rows_from_here_are_128").get<size_t>() * image.view().row_bytes();
        EXPECT_TRUE(std::all_of(image.rgb_HWC.begin() + static_cast<ptrdiff_t>(start),
                                image.rgb_HWC.end(), [](uint8_t value) { return value == 128; }))
            << name;
      }
    }
  }
}

TEST_P(ImageFixture, CropsAreDistributedAsTheReferences) {
  constexpr int64_t kDraws = 40000;
  uint64_t position = 0;
  for (const json& c : golden_->Json("crop_params.json")) {
    SCOPED_TRACE(fmt::format("{} x {} at scale {}", c.at("image_width").get<int>(),
                             c.at("image_height").get<int>(), c.at("scale").dump()));
    const int height = c.at("image_height");
    const int width = c.at("image_width");
    const RandomCropOptions options{c.at("scale")[0], c.at("scale")[1], c.at("ratio")[0],
                                    c.at("ratio")[1]};
    const Box fallback{c.at("fallback_box")[0], c.at("fallback_box")[1], c.at("fallback_box")[2],
                       c.at("fallback_box")[3]};
    std::map<std::string, std::vector<double>> drawn;
    double relative_top = 0;
    double relative_left = 0;
    double num_top = 0;
    double num_left = 0;
    int64_t num_fallback = 0;
    for (int64_t i = 0; i < kDraws; ++i) {
      RandomStream random(20210715, RandomPurpose::kImageAugmentation, position++);
      const Box box = SampleCrop(height, width, options, random);
      ASSERT_TRUE(box.top >= 0 && box.left >= 0 && box.height >= 1 && box.width >= 1 &&
                  box.top + box.height <= height && box.left + box.width <= width);
      drawn["area_fraction"].push_back(static_cast<double>(box.height) * box.width / height /
                                       width);
      drawn["log_ratio_w_over_h"].push_back(std::log(static_cast<double>(box.width) / box.height));
      drawn["height"].push_back(box.height);
      drawn["width"].push_back(box.width);
      drawn["top"].push_back(box.top);
      drawn["left"].push_back(box.left);
      if (box == fallback) {
        ++num_fallback;
        continue;
      }
      if (box.height < height) {
        relative_top += static_cast<double>(box.top) / (height - box.height);
        ++num_top;
      }
      if (box.width < width) {
        relative_left += static_cast<double>(box.left) / (width - box.width);
        ++num_left;
      }
    }

    const double spread = std::sqrt(1.0 / kDraws + 1.0 / c.at("draws").get<double>());
    for (auto& [name, values] : drawn) {
      const json& expected = c.at(name);
      const double std_deviation = expected.at("std");
      double sum = 0;
      for (const double value : values) sum += value;
      // The fixture's sums carry rounding of about 1e-12 even where every draw is the same.
      EXPECT_NEAR(sum / kDraws, expected.at("mean").get<double>(),
                  5 * std_deviation * spread + 1e-9)
          << name;
      // The share of our draws at or below a quantile of theirs.
      for (const auto& [percent, quantile] : expected.at("quantiles").items()) {
        const double p = std::stod(percent) / 100;
        const double bound = quantile;
        int64_t below = 0;
        int64_t equal = 0;
        for (const double value : values) {
          below += value < bound - 1e-9;
          equal += std::abs(value - bound) <= 1e-9;
        }
        const double tolerance = 5 * std::sqrt(p * (1 - p)) * spread;
        // Steps of one pixel: the quantile may lie at either end of its value's share.
        EXPECT_LE(static_cast<double>(below) / kDraws, p + tolerance) << name << " " << percent;
        EXPECT_GE(static_cast<double>(below + equal) / kDraws, p - tolerance)
            << name << " " << percent;
      }
    }
    // Uniform offsets have a standard deviation of about 0.29 (at most 0.5, for two places).
    if (num_top > 0) {
      EXPECT_NEAR(relative_top / num_top, 0.5, 2.5 / std::sqrt(num_top));
    }
    if (num_left > 0) {
      EXPECT_NEAR(relative_left / num_left, 0.5, 2.5 / std::sqrt(num_left));
    }
    const double share = c.at("fallback_box_share");
    EXPECT_NEAR(static_cast<double>(num_fallback) / kDraws, share,
                5 * std::sqrt(std::max(share * (1 - share), 1.0 / kDraws)) * spread);
  }
}

}  // namespace
}  // namespace albef
