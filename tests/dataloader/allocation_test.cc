// Reading samples takes no memory once it has what it needs.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "common/file.h"
#include "dataloader/image_transform.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/sample_reader.h"

namespace {

std::atomic<int64_t> num_allocations = 0;

}  // namespace

// Every allocation of C++ in this program; what libjpeg takes from malloc is its own.
void* operator new(size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace albef {
namespace {

namespace fs = std::filesystem;

TEST(SampleReader, AllocatesNothingOnceItIsWarm) {
  TemporaryDirectory directory;
  std::string json = "[";
  for (const char* name : {"420", "422", "444", "gray", "progressive", "restart"}) {
    json += json.size() > 1 ? "," : "";
    json += std::string(R"({"image": ")") +
            fs::absolute("tests/golden/image-own/encoded").string() + "/" + name +
            R"(.jpg", "caption": "The dogs, running near a tree-house in the river!"})";
  }
  const fs::path file = directory.path() / "train.json";
  ASSERT_TRUE(WriteFileAtomic(file, json + "]").ok());
  SampleReader::Options options;
  options.source = std::make_shared<IndexedSamples>(*IndexedSamples::Open({&file, 1}, ""));
  options.tokenizer =
      std::make_shared<WordPieceTokenizer>(*Vocabulary::Load("tests/golden/text-own/vocab.txt"));
  options.image_loader =
      std::make_shared<TrainingImageLoader>(*TrainingImageLoader::Create({.image_res = 64}));
  const SampleReader reader(options);
  std::vector<uint8_t> image_HWC(64 * 64 * 3);
  SampleReader::Result result;
  const auto read = [&] {
    for (int64_t i = 0; i < 500; ++i) {
      const absl::Status status = reader.Read(
          {.epoch = 0, .order_position = i % 6, .sample_position = i}, image_HWC,
          [](auto) { return true; }, result);
      ASSERT_TRUE(status.ok()) << status;
    }
  };
  read();
  const int64_t before = num_allocations;
  read();
  EXPECT_EQ(num_allocations - before, 0);
}

}  // namespace
}  // namespace albef
