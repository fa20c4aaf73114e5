// Runs a fuzz target over its seeds, their prefixes and mutations of them, the same in every run.
// Nothing may crash, hang or read out of bounds; the sanitizer builds see more than the others.
// To search with coverage instead, for each target NAME of this folder:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DALBEF_TORCH=OFF -DALBEF_FUZZ=ON
//         -DALBEF_SANITIZE=fuzzer-no-link,address,undefined
//   ninja -C build/fuzz NAME_fuzz NAME_seeds && mkdir found &&
//   build/fuzz/bin/NAME_seeds found && build/fuzz/bin/NAME_fuzz found
#include <gtest/gtest.h>

#include "tests/formats/fuzz/seeds.h"
#include "tests/fuzz/mutation.h"

namespace albef {
namespace {

constexpr uint64_t kMutationsPerSeed = 7500;

TEST(Fuzz, SeedsAndAllTheirPrefixes) {
  for (const std::string& seed : FuzzSeeds()) {
    for (size_t size = 0; size <= seed.size(); ++size) RunFuzzTarget(seed.substr(0, size));
  }
}

TEST(Fuzz, Mutations) {
  const std::vector<std::string> seeds = FuzzSeeds();
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    for (uint64_t i = 0; i < kMutationsPerSeed; ++i) {
      RandomStream random(seed, RandomPurpose::kSynthetic, i);
      RunFuzzTarget(Mutated(seeds, seed, {.max_mutations = 5}, random));
    }
  }
}

}  // namespace
}  // namespace albef
