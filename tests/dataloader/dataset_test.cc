// From a configuration to batches: the bits of the whole path from annotations to pixels and ids.
#include "dataloader/dataset.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"

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

// Every encoded fixture, each with captions of several kinds, and some that are bad.
std::string FixtureAnnotations() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator("tests/golden/image-own/encoded")) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  std::string json = "[";
  for (size_t i = 0; i < names.size(); ++i) {
    json += fmt::format(
        R"x({}{{"image": "{}", "caption": ["The {} dogs, running near a tree-house!", )x"
        R"x("Caf\u00e9 cats / birds (two)", "a small child and the bird over house {}"]}})x",
        i == 0 ? "" : ",\n", names[i], names[i], i);
  }
  return json + R"(, {"image": "missing.jpg", "caption": "a cat"},)"
                R"( {"image": "420.jpg", "caption": " . "}])";
}

// The digests were computed when annotations were still read into memory: neither the index nor
// any later change of speed may move them.
TEST(Dataset, BatchesOfAFixedDatasetKeepTheirBits) {
  TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "train.json", FixtureAnnotations()).ok());
  for (const auto& entry : fs::directory_iterator("tests/golden/image-own/encoded")) {
    fs::copy_file(entry.path(), directory.path() / entry.path().filename());
  }
  fs::copy_file("tests/golden/text-own/vocab.txt", directory.path() / "vocab.txt");
  const auto digest = [&](RunConfig::AugmentCompat compat) {
    RunConfig config;
    config.train_file = {"train.json"};
    config.data.root = directory.path();
    config.data.augment_compat = compat;
    config.data.max_bad_fraction = 1;
    config.data.num_threads = 3;
    config.tokenizer.vocab = "vocab.txt";
    config.image_res = 48;
    config.batch_size = 4;
    config.virtual_ranks = 2;
    const auto dataset = Dataset::Load(config);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
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
  };
  EXPECT_EQ(digest(RunConfig::AugmentCompat::kCorrected), "31577b122efe2af6a38b4b36f5975aff");
  EXPECT_EQ(digest(RunConfig::AugmentCompat::kOfficial), "bcc4e134c317304860db298ef0ae6cd2");
}

}  // namespace
}  // namespace albef
