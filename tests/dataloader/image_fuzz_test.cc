// Mutations of the encoded fixtures, the same in every run. What is tested is that nothing crashes
// or hangs; the sanitizer builds see more than the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/fuzz/mutation.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMutationsPerSeed = 520;

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

TEST(ImageFuzz, NoMutationOfAPictureCrashes) {
  const std::vector<std::string> seeds = Seeds();
  ASSERT_GE(seeds.size(), 20u);
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    for (uint64_t i = 0; i < kMutationsPerSeed; ++i) {
      RandomStream random(seed, RandomPurpose::kSynthetic, i);
      RunFuzzTarget(Mutated(seeds, seed, {.max_mutations = 4, .share_at_start = 0.5}, random));
    }
  }
}

TEST(ImageFuzz, NoPrefixOfAPictureCrashes) {
  for (const std::string& seed : Seeds()) {
    const size_t step = std::max<size_t>(1, seed.size() / 300);
    for (size_t size = 0; size < seed.size(); size += step) RunFuzzTarget(seed.substr(0, size));
  }
}

}  // namespace
}  // namespace albef
