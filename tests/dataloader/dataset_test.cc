// From a configuration to batches: the bits of the whole path from annotations to pixels and ids.
#include "dataloader/dataset.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.h"
#include "tests/dataloader/tar_builder.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

// XXH3-128 over everything that a number of batches holds.
class BatchDigest {
 public:
  BatchDigest() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
  BatchDigest(const BatchDigest&) = delete;
  BatchDigest& operator=(const BatchDigest&) = delete;
  ~BatchDigest() { XXH3_freeState(state_); }

  void Add(const Batch& batch) {
    AddRange(batch.image_BHWC);
    for (const auto* ids : {&batch.input_ids_BT, &batch.attention_mask_BT, &batch.mlm_input_ids_BT,
                            &batch.masked_index_N, &batch.masked_label_N, &batch.sample_index_B}) {
      AddRange(*ids);
    }
  }
  std::string Hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_);
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  template <typename Range>
  void AddRange(const Range& range) {
    XXH3_128bits_update(state_, range.data(), range.size() * sizeof(range[0]));
  }

  XXH3_state_t* state_;
};

struct Pair {
  std::string image;          // a fixture, or a file that does not exist
  std::string captions_json;  // a text or a list of them
};

// Every encoded fixture, each with captions of several kinds, and some that are bad.
std::vector<Pair> FixturePairs() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator("tests/golden/image-own/encoded")) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  std::vector<Pair> pairs;
  for (size_t i = 0; i < names.size(); ++i) {
    pairs.push_back(
        {names[i],
         fmt::format(R"x(["The {} dogs, running near a tree-house!", "Caf\u00e9 cats / birds )x"
                     R"x((two)", "a small child and the bird over house {}"])x",
                     names[i], i)});
  }
  pairs.push_back({"missing.jpg", "\"a cat\""});
  pairs.push_back({"420.jpg", "\" . \""});
  return pairs;
}

std::string ReadFixture(const std::string& name) {
  return *ReadFile(fs::path("tests/golden/image-own/encoded") / name);
}

class DatasetBits : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::copy_file("tests/golden/text-own/vocab.txt", directory_.path() / "vocab.txt");
  }

  void Write(const std::string& name, std::string_view content) {
    ASSERT_TRUE(WriteFileAtomic(directory_.path() / name, content).ok());
  }

  // Of 40 steps over `train_file` in the folder.
  std::string Digest(const std::string& train_file, RunConfig::AugmentCompat compat) {
    RunConfig config;
    config.train_file = {train_file};
    config.data.root = directory_.path();
    config.data.augment_compat = compat;
    config.data.max_bad_fraction = 1;
    config.data.num_threads = 3;
    config.tokenizer.vocab = "vocab.txt";
    config.image_res = 48;
    config.batch_size = 4;
    config.virtual_ranks = 2;
    const auto dataset = Dataset::Load(config);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    if (!dataset.ok()) return "";
    const auto plan = PlanEpochs(config, dataset->train->size());
    EXPECT_TRUE(plan.ok()) << plan.status();
    const auto stream = OpenBatches(config, {.source = dataset->train,
                                             .tokenizer = dataset->tokenizer,
                                             .plan = *plan,
                                             .end_iteration = 40});
    EXPECT_TRUE(stream.ok()) << stream.status();
    BatchDigest all;
    for (int i = 0; i < 80; ++i) {
      const auto batch = (*stream)->Next();
      EXPECT_TRUE(batch.ok()) << batch.status();
      if (!batch.ok()) break;
      all.Add(**batch);
    }
    return all.Hex();
  }

  // These were computed when annotations were still read into memory: neither an index nor another
  // storage nor any later change of speed may move them.
  void ExpectTheBits(const std::string& train_file) {
    EXPECT_EQ(Digest(train_file, RunConfig::AugmentCompat::kCorrected),
              "31577b122efe2af6a38b4b36f5975aff");
    EXPECT_EQ(Digest(train_file, RunConfig::AugmentCompat::kOfficial),
              "bcc4e134c317304860db298ef0ae6cd2");
  }

  TemporaryDirectory directory_;
};

TEST_F(DatasetBits, OfFilesStayAsTheyAre) {
  std::string json;
  for (const Pair& pair : FixturePairs()) {
    json += fmt::format(R"({}{{"image": "{}", "caption": {}}})", json.empty() ? "[" : ",\n",
                        pair.image, pair.captions_json);
    if (pair.image != "missing.jpg") Write(pair.image, ReadFixture(pair.image));
  }
  Write("train.json", json + "]");
  ExpectTheBits("train.json");
}

TEST_F(DatasetBits, OfShardsAreThoseOfTheSameSamplesAsFiles) {
  const std::vector<Pair> pairs = FixturePairs();
  std::vector<TarBuilder> shards(3);
  for (size_t i = 0; i < pairs.size(); ++i) {
    TarBuilder& shard = shards[i * shards.size() / pairs.size()];
    const fs::path image = pairs[i].image;
    if (image != "missing.jpg") {
      shard.Add(fmt::format("{:09}{}", i, image.extension().string()), ReadFixture(image));
    }
    shard.Add(fmt::format("{:09}.json", i),
              fmt::format(R"({{"key": "{}", "caption": {}}})", i, pairs[i].captions_json));
  }
  for (size_t i = 0; i < shards.size(); ++i) Write(fmt::format("{:05}.tar", i), shards[i].End());
  ExpectTheBits("{00000..00002}.tar");
  ExpectTheBits("*.tar");
}

}  // namespace
}  // namespace albef
