#include "dataloader/synthetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "dataloader/image_transform.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/synthetic_image.h"
#include "dataloader/synthetic_scene.h"
#include "dataloader/vocabulary.h"
#include "dataloader/wordpiece.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Small images keep the tests fast where they are not looked at.
SyntheticOptions SmallOptions(int64_t pairs, int64_t test_pairs) {
  SyntheticOptions options;
  options.pairs = pairs;
  options.test_pairs = test_pairs;
  options.seed = 11;
  options.size_px = 24;
  return options;
}

SyntheticDataset Write(const fs::path& directory, const SyntheticOptions& options) {
  const absl::StatusOr<SyntheticDataset> dataset = WriteSyntheticDataset(directory, options);
  EXPECT_TRUE(dataset.ok()) << dataset.status();
  return dataset.value_or(SyntheticDataset());
}

// Every file below the folder with its bytes.
std::map<std::string, std::string> Contents(const fs::path& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory)] = *ReadFile(entry.path());
  }
  return contents;
}

std::vector<Sample> ReadSamples(const fs::path& directory, const std::string& file) {
  const std::vector<fs::path> files = {directory / file};
  const absl::StatusOr<IndexedSamples> annotations = IndexedSamples::Open(files, directory);
  EXPECT_TRUE(annotations.ok()) << annotations.status();
  std::vector<Sample> samples;
  if (!annotations.ok()) return samples;
  for (int64_t i = 0; i < annotations->size(); ++i) samples.push_back(annotations->Get(i));
  return samples;
}

int64_t NumWords(const std::string& caption) {
  return std::count(caption.begin(), caption.end(), ' ') + 1;
}

TEST(SyntheticDataset, IsTheSameOnAnyNumberOfThreads) {
  TemporaryDirectory one, many;
  SyntheticOptions options = SmallOptions(60, 12);
  options.threads = 1;
  Write(one.path(), options);
  options.threads = 5;
  Write(many.path(), options);
  const auto contents = Contents(one.path());
  EXPECT_EQ(contents.size(), 60u + 12 + 4);
  EXPECT_EQ(contents, Contents(many.path()));
}

TEST(SyntheticDataset, AnotherSeedGivesOtherCaptionsAndImages) {
  TemporaryDirectory one, other;
  SyntheticOptions options = SmallOptions(5, 5);
  Write(one.path(), options);
  options.seed = 12;
  Write(other.path(), options);
  const auto a = Contents(one.path());
  const auto b = Contents(other.path());
  for (const char* file : {"train.json", "test.json", "images/train-0000000.jpg"}) {
    EXPECT_NE(a.at(file), b.at(file)) << file;
  }
  EXPECT_EQ(a.at("vocab.txt"), b.at("vocab.txt"));
}

TEST(SyntheticDataset, NoSceneOrCaptionOfTheTestSplitOccursInTraining) {
  TemporaryDirectory directory;
  Write(directory.path(), SmallOptions(3000, 600));
  std::set<std::string> test_captions;
  for (const Sample& sample : ReadSamples(directory.path(), "test.json")) {
    ASSERT_EQ(sample.captions.size(), 1u);
    EXPECT_TRUE(test_captions.insert(sample.captions[0]).second) << sample.captions[0];
  }
  EXPECT_EQ(test_captions.size(), 600u);
  const std::vector<Sample> train = ReadSamples(directory.path(), "train.json");
  ASSERT_EQ(train.size(), 3000u);
  for (const Sample& sample : train) {
    EXPECT_EQ(std::set(sample.captions.begin(), sample.captions.end()).size(), 5u);
    for (const std::string& caption : sample.captions) {
      EXPECT_FALSE(test_captions.contains(caption)) << caption;
    }
  }
}

TEST(SyntheticDataset, EveryCaptionIsWholeWordsOfItsVocabularyAndFitsTheTextLength) {
  TemporaryDirectory directory;
  Write(directory.path(), SmallOptions(500, 100));
  auto vocabulary = Vocabulary::Load(directory.path() / "vocab.txt");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const WordPieceTokenizer tokenizer(*std::move(vocabulary));
  const int64_t unknown = tokenizer.vocabulary().unk_id();
  for (const char* file : {"train.json", "test.json"}) {
    for (const Sample& sample : ReadSamples(directory.path(), file)) {
      for (const std::string& caption : sample.captions) {
        const std::vector<int64_t> ids = tokenizer.Tokenize(caption, {});
        EXPECT_THAT(ids, Not(Contains(unknown))) << caption;
        EXPECT_EQ(static_cast<int64_t>(ids.size()), 1 + NumWords(caption)) << caption;
        EXPECT_LE(NumWords(caption), kMaxSyntheticWords) << caption;
      }
    }
  }
}

TEST(SyntheticDataset, EveryImageDecodesAtAboutTheSizeAskedFor) {
  TemporaryDirectory directory;
  SyntheticOptions options = SmallOptions(40, 10);
  options.size_px = 100;
  Write(directory.path(), options);
  for (const char* file : {"train.json", "test.json"}) {
    for (const Sample& sample : ReadSamples(directory.path(), file)) {
      Image image;
      const absl::Status read = ReadImage(sample.image_path, ImageCompat::kCorrected, image);
      ASSERT_TRUE(read.ok()) << read;
      EXPECT_GT(std::min(image.width, image.height), 65);
      EXPECT_LT(std::max(image.width, image.height), 145);
    }
  }
}

TEST(SyntheticDataset, RefusesWhatIsOutOfRange) {
  TemporaryDirectory directory;
  const auto refusal = [&](const SyntheticOptions& options) {
    const auto dataset = WriteSyntheticDataset(directory.path(), options);
    EXPECT_EQ(dataset.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(dataset.status().message());
  };
  EXPECT_THAT(refusal(SmallOptions(0, 5)), HasSubstr("pairs must be from 1 to 9999999, not 0"));
  EXPECT_THAT(refusal(SmallOptions(5, 0)), HasSubstr("test pairs"));
  SyntheticOptions options = SmallOptions(5, 5);
  options.size_px = 3;
  EXPECT_THAT(refusal(options), HasSubstr("image size"));
  options = SmallOptions(5, 5);
  options.threads = -1;
  EXPECT_THAT(refusal(options), HasSubstr("threads"));
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(SyntheticDataset, LeavesACompleteOneAsItIs) {
  TemporaryDirectory directory;
  const SyntheticOptions options = SmallOptions(10, 3);
  EXPECT_FALSE(Write(directory.path(), options).already_there);
  const auto before = fs::last_write_time(directory.path() / "images/train-0000000.jpg");
  const SyntheticDataset again = Write(directory.path(), options);
  EXPECT_TRUE(again.already_there);
  EXPECT_EQ(again.train_pairs, 10);
  EXPECT_EQ(again.test_pairs, 3);
  EXPECT_EQ(fs::last_write_time(directory.path() / "images/train-0000000.jpg"), before);
}

TEST(SyntheticDataset, RefusesAFolderThatHoldsSomethingElse) {
  const SyntheticOptions options = SmallOptions(10, 3);
  const auto refusal = [&](const fs::path& directory) {
    const auto before = Contents(directory);
    const auto dataset = WriteSyntheticDataset(directory, options);
    EXPECT_EQ(dataset.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(Contents(directory), before);
    return std::string(dataset.status().message());
  };
  TemporaryDirectory foreign;
  ASSERT_TRUE(WriteFileAtomic(foreign.path() / "thesis.txt", "mine").ok());
  EXPECT_THAT(refusal(foreign.path()), HasSubstr("not empty"));

  TemporaryDirectory other_seed;
  SyntheticOptions other = options;
  other.seed = 1;
  Write(other_seed.path(), other);
  EXPECT_THAT(refusal(other_seed.path()), HasSubstr("\"seed\":1"));

  TemporaryDirectory edited;
  Write(edited.path(), options);
  ASSERT_TRUE(WriteFileAtomic(edited.path() / "train.json", "[]").ok());
  EXPECT_THAT(refusal(edited.path()), HasSubstr("train.json differs"));

  TemporaryDirectory damaged;
  Write(damaged.path(), options);
  fs::remove(damaged.path() / "images/test-0000002.jpg");
  EXPECT_THAT(refusal(damaged.path()), HasSubstr("images/test-0000002.jpg is missing"));
}

TEST(SyntheticDataset, StartsAfreshAfterAnInterruptedRun) {
  TemporaryDirectory undisturbed, interrupted;
  const SyntheticOptions options = SmallOptions(10, 3);
  Write(undisturbed.path(), options);
  fs::create_directories(interrupted.path() / "images");
  ASSERT_TRUE(WriteFileAtomic(interrupted.path() / "synthetic.incomplete", "").ok());
  ASSERT_TRUE(WriteFileAtomic(interrupted.path() / "images/train-0000000.jpg", "half").ok());
  ASSERT_TRUE(WriteFileAtomic(interrupted.path() / "images/train-0000099.jpg", "more").ok());
  EXPECT_FALSE(Write(interrupted.path(), options).already_there);
  EXPECT_EQ(Contents(interrupted.path()), Contents(undisturbed.path()));
}

TEST(SyntheticScene, EveryKindShapeColorAndBackgroundIsDrawnOften) {
  std::map<SyntheticKind, int> kinds;
  std::map<SyntheticShape, int> shapes;
  std::map<SyntheticColor, int> colors, backgrounds;
  for (uint64_t i = 0; i < 4000; ++i) {
    RandomStream random(5, RandomPurpose::kSynthetic, i);
    const SyntheticScene scene = DrawSyntheticScene(random);
    ++kinds[scene.kind];
    ++backgrounds[scene.background];
    for (const SyntheticObject& object : scene.objects) {
      ++shapes[object.shape];
      ++colors[object.color];
      EXPECT_NE(object.color, scene.background);
    }
  }
  EXPECT_EQ(kinds.size(), 6u);
  EXPECT_EQ(shapes.size(), 9u);
  EXPECT_EQ(colors.size(), 11u);
  EXPECT_EQ(backgrounds.size(), 8u);
  for (const auto& [kind, count] : kinds) EXPECT_GT(count, 200);
  for (const auto& [shape, count] : shapes) EXPECT_GT(count, 300);
  for (const auto& [color, count] : colors) EXPECT_GT(count, 200);
  for (const auto& [color, count] : backgrounds) EXPECT_GT(count, 300);
}

// Captions would contradict each other otherwise, and retrieval would be ill-posed.
TEST(SyntheticScene, DifferentScenesNeverShareACaption) {
  std::map<std::string, SyntheticScene> scene_of_caption;
  for (uint64_t i = 0; i < 5000; ++i) {
    RandomStream random(9, RandomPurpose::kSynthetic, i);
    const SyntheticScene scene = DrawSyntheticScene(random);
    for (const std::string& caption : DrawSyntheticCaptions(scene, 20, random)) {
      const auto [other, is_new] = scene_of_caption.emplace(caption, scene);
      EXPECT_TRUE(is_new || other->second == scene) << caption;
    }
  }
}

TEST(SyntheticScene, HasFiftyDifferentCaptions) {
  for (uint64_t i = 0; i < 200; ++i) {
    RandomStream random(2, RandomPurpose::kSynthetic, i);
    const SyntheticScene scene = DrawSyntheticScene(random);
    const std::vector<std::string> captions = DrawSyntheticCaptions(scene, 50, random);
    EXPECT_EQ(std::set(captions.begin(), captions.end()).size(), 50u);
  }
}

TEST(SyntheticVocabulary, TokenizesAnyEnglishWithoutUnknownWords) {
  TemporaryDirectory directory;
  std::string text;
  for (const std::string& line : SyntheticVocabulary()) text += line + "\n";
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "vocab.txt", text).ok());
  auto vocabulary = Vocabulary::Load(directory.path() / "vocab.txt");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_THAT((std::vector{vocabulary->pad_id(), vocabulary->unk_id(), vocabulary->cls_id(),
                           vocabulary->sep_id(), vocabulary->mask_id()}),
              ElementsAre(0, 1, 2, 3, 4));
  const WordPieceTokenizer tokenizer(*std::move(vocabulary));
  EXPECT_THAT(tokenizer.Tokenize("Two quick Jackals @ 1984's \"Zoo\" [rated 5/7 & up]: 100%!", {}),
              Not(Contains(tokenizer.vocabulary().unk_id())));
}

TEST(SyntheticImage, ShowsItsObjectOnItsBackground) {
  SyntheticScene scene;
  scene.objects = {{SyntheticShape::kSquare, SyntheticColor::kRed}};
  scene.size = SyntheticSize::kLarge;
  scene.place = SyntheticPlace::kTop;
  scene.background = SyntheticColor::kBlue;
  RandomStream random(3, RandomPurpose::kSynthetic, 0);
  const Image image = DrawSyntheticImage(scene, 100, random);
  const auto pixel = [&](double x, double y) {
    const size_t column = static_cast<size_t>(x * image.width);
    const size_t row = static_cast<size_t>(y * image.height);
    const size_t at = 3 * (row * static_cast<size_t>(image.width) + column);
    return std::array<int, 3>{image.rgb_HWC[at], image.rgb_HWC[at + 1], image.rgb_HWC[at + 2]};
  };
  const auto is_near = [](const std::array<int, 3>& rgb, SyntheticColor color) {
    const std::array<double, 3> expected = SyntheticRgb(color);
    return std::abs(rgb[0] - expected[0]) < 25 && std::abs(rgb[1] - expected[1]) < 25 &&
           std::abs(rgb[2] - expected[2]) < 25;
  };
  EXPECT_TRUE(is_near(pixel(0.5, 0.28), SyntheticColor::kRed));
  EXPECT_TRUE(is_near(pixel(0.5, 0.9), SyntheticColor::kBlue));
  EXPECT_TRUE(is_near(pixel(0.05, 0.5), SyntheticColor::kBlue));
}

TEST(EncodeJpeg, LosesLittle) {
  Image drawn;
  drawn.Resize(24, 40);
  for (int y = 0; y < drawn.height; ++y) {
    for (int x = 0; x < drawn.width; ++x) {
      uint8_t* pixel = drawn.mutable_view().row(y) + 3 * x;
      pixel[0] = static_cast<uint8_t>(5 * x);
      pixel[1] = static_cast<uint8_t>(10 * y);
      pixel[2] = 90;
    }
  }
  const absl::StatusOr<std::string> jpeg = EncodeJpeg(drawn.view(), 95);
  ASSERT_TRUE(jpeg.ok()) << jpeg.status();
  TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "a.jpg", *jpeg).ok());
  Image read;
  ASSERT_TRUE(ReadImage(directory.path() / "a.jpg", ImageCompat::kCorrected, read).ok());
  ASSERT_EQ(read.width, 40);
  ASSERT_EQ(read.height, 24);
  for (size_t i = 0; i < drawn.rgb_HWC.size(); ++i) {
    EXPECT_NEAR(read.rgb_HWC[i], drawn.rgb_HWC[i], 12) << i;
  }
}

TEST(SyntheticImage, VariesInSizeAndAspect) {
  std::set<std::pair<int, int>> sizes;
  double widest = 1, tallest = 1;
  for (uint64_t i = 0; i < 100; ++i) {
    RandomStream random(4, RandomPurpose::kSynthetic, i);
    const Image image = DrawSyntheticImage(DrawSyntheticScene(random), 60, random);
    ASSERT_EQ(image.rgb_HWC.size(),
              3 * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
    const double aspect = static_cast<double>(image.width) / image.height;
    widest = std::max(widest, aspect);
    tallest = std::min(tallest, aspect);
    sizes.emplace(image.width, image.height);
  }
  EXPECT_GT(sizes.size(), 80u);
  EXPECT_GT(widest, 1.2);
  EXPECT_LT(widest, 1.35);
  EXPECT_LT(tallest, 1 / 1.2);
  EXPECT_GT(tallest, 1 / 1.35);
}

}  // namespace
}  // namespace albef
