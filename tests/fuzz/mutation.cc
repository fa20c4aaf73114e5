#include "tests/fuzz/mutation.h"

#include <algorithm>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace albef {
namespace {

constexpr uint64_t kStartBytes = 64;

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

void MutateOnce(std::string& content, const std::string& other, double share_at_start,
                RandomStream& random) {
  const size_t size = content.size();
  const auto place = [&random](size_t end) { return static_cast<size_t>(random.Below(end + 1)); };
  size_t at = place(size);
  if (share_at_start > 0 && random.Bernoulli(share_at_start)) {
    at = std::min<size_t>(at, random.Below(kStartBytes));
  }
  switch (random.Below(9)) {
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
    case 3:  // 4 bytes, each all zeros or all ones
      for (size_t i = at; i < std::min(size, at + 4); ++i) {
        content[i] = random.Bernoulli(0.5) ? '\xFF' : '\0';
      }
      break;
    case 4:  // its beginning
      content.resize(at);
      break;
    case 5:  // without some bytes
      content.erase(at, place(24));
      break;
    case 6:  // some bytes twice
      content.insert(at, content.substr(place(size), place(200)));
      break;
    case 7:  // bytes of another seed
      content.replace(at, place(32), other.substr(place(other.size()), place(64)));
      break;
    case 8:  // the tail of another seed
      content.replace(at, std::string::npos, other.substr(std::min(at, other.size())));
      break;
  }
}

}  // namespace

std::string Mutated(std::span<const std::string> seeds, size_t seed, const MutationOptions& options,
                    RandomStream& random) {
  std::string content = seeds[seed];
  for (uint64_t count = 1 + random.Below(options.max_mutations); count > 0; --count) {
    const std::string& other = seeds[random.Below(seeds.size())];
    MutateOnce(content, other, options.share_at_start, random);
  }
  return content;
}

void RunFuzzTarget(const std::string& content) {
  const std::vector<uint8_t> bytes(content.begin(), content.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace albef
