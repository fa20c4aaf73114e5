// Mutations of the encoded fixtures, the same in every run. What is tested is that nothing crashes
// or hangs; the sanitizer builds see more than the others.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace albef {
namespace {

namespace fs = std::filesystem;

void RunOne(const std::string& content) {
  // A copy of exactly this size: AddressSanitizer sees the first byte read beyond it.
  const std::vector<uint8_t> bytes(content.begin(), content.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::vector<std::string> Seeds() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator("tests/golden/image-own/encoded")) {
    paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  std::vector<std::string> seeds;
  for (const fs::path& path : paths) seeds.push_back(*ReadFile(path));
  return seeds;
}

std::string Mutate(std::span<const std::string> seeds, size_t seed, RandomStream& random) {
  std::string content = seeds[seed];
  const auto place = [&] { return static_cast<size_t>(random.Below(content.size() + 1)); };
  const uint64_t num_mutations = 1 + random.Below(4);
  for (uint64_t i = 0; i < num_mutations; ++i) {
    // Half of the time near the start, where the headers are.
    size_t at = place();
    if (random.Bernoulli(0.5)) at = std::min<size_t>(at, random.Below(64));
    switch (random.Below(7)) {
      case 0:  // one bit
        if (at < content.size()) {
          content[at] = static_cast<char>(content[at] ^ (1 << random.Below(8)));
        }
        break;
      case 1:  // one byte
        if (at < content.size()) content[at] = static_cast<char>(random.Below(256));
        break;
      case 2:  // a length or a size at its end
        for (size_t j = at; j < std::min(content.size(), at + 4); ++j) {
          content[j] = random.Bernoulli(0.5) ? '\xFF' : '\0';
        }
        break;
      case 3:
        content.resize(at);
        break;
      case 4:
        content.erase(at, static_cast<size_t>(random.Below(16)));
        break;
      case 5:
        content.insert(at, content.substr(place(), static_cast<size_t>(random.Below(200))));
        break;
      case 6: {  // the tail of another file
        const std::string& other = seeds[random.Below(seeds.size())];
        content = content.substr(0, at) + other.substr(std::min(at, other.size()));
        break;
      }
    }
  }
  return content;
}

TEST(ImageFuzz, NoMutationOfAPictureCrashes) {
  const std::vector<std::string> seeds = Seeds();
  ASSERT_GE(seeds.size(), 20u);
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    for (uint64_t i = 0; i < 400; ++i) {
      RandomStream random(seed, RandomPurpose::kSynthetic, i);
      RunOne(Mutate(seeds, seed, random));
    }
  }
}

TEST(ImageFuzz, NoPrefixOfAPictureCrashes) {
  for (const std::string& seed : Seeds()) {
    const size_t step = std::max<size_t>(1, seed.size() / 300);
    for (size_t size = 0; size < seed.size(); size += step) RunOne(seed.substr(0, size));
  }
}

}  // namespace
}  // namespace albef
