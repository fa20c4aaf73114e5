// Runs a fuzz target over its seeds, their prefixes and mutations of them, the same in every run.
// Nothing may crash, hang or read out of bounds; the sanitizer builds see more than the others.
// To search with coverage instead, for each target NAME of this folder:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DALBEF_TORCH=OFF -DALBEF_FUZZ=ON
//         -DALBEF_SANITIZE=fuzzer-no-link,address,undefined
//   ninja -C build/fuzz NAME_fuzz && mkdir found && build/fuzz/bin/NAME_fuzz found
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/random.h"
#include "tests/formats/fuzz/seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace albef {
namespace {

constexpr uint64_t kMutationsPerSeed = 5000;

void RunTarget(const std::string& content) {
  // A copy of exactly this size, so that AddressSanitizer sees the first byte beyond it.
  const std::vector<uint8_t> bytes(content.begin(), content.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Numbers at which sizes and offsets go wrong.
uint64_t Extreme(RandomStream& random) {
  const uint64_t power = uint64_t{1} << random.Below(64);
  switch (random.Below(4)) {
    case 0:
      return power;
    case 1:
      return power - 1;
    case 2:
      return 0 - power;
    default:
      return random.Below(256);
  }
}

void MutateOnce(std::string& content, const std::string& other, RandomStream& random) {
  const size_t size = content.size();
  const auto place = [&random](size_t end) { return static_cast<size_t>(random.Below(end + 1)); };
  const size_t at = place(size);
  switch (random.Below(6)) {
    case 0:  // one bit
      if (at < size) content[at] = static_cast<char>(content[at] ^ (1 << random.Below(8)));
      break;
    case 1:  // one byte
      if (at < size) content[at] = static_cast<char>(random.Below(256));
      break;
    case 2: {  // a number of 1, 2, 4 or 8 bytes
      const uint64_t number = Extreme(random);
      std::memcpy(content.data() + at, &number, std::min(size - at, size_t{1} << random.Below(4)));
      break;
    }
    case 3:  // without some bytes
      content.erase(at, place(24));
      break;
    case 4:  // some bytes twice
      content.insert(at, content.substr(place(size), place(64)));
      break;
    case 5:  // bytes of another seed
      content.replace(at, place(32), other.substr(place(other.size()), place(64)));
      break;
  }
}

TEST(Fuzz, SeedsAndAllTheirPrefixes) {
  for (const std::string& seed : FuzzSeeds()) {
    for (size_t size = 0; size <= seed.size(); ++size) RunTarget(seed.substr(0, size));
  }
}

TEST(Fuzz, Mutations) {
  const std::vector<std::string> seeds = FuzzSeeds();
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    for (uint64_t i = 0; i < kMutationsPerSeed; ++i) {
      RandomStream random(seed, RandomPurpose::kSynthetic, i);
      std::string content = seeds[seed];
      for (uint64_t count = 1 + random.Below(5); count > 0; --count) {
        MutateOnce(content, seeds[random.Below(seeds.size())], random);
      }
      RunTarget(content);
    }
  }
}

}  // namespace
}  // namespace albef
