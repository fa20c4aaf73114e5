#include "common/random.h"

#include <cstddef>

namespace albef {
namespace {

using Block = std::array<uint32_t, 4>;

// SplitMix64's finaliser: spreads seeds that differ in one bit over the whole key.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

Block Philox(Block counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace

RandomStream::RandomStream(uint64_t seed, RandomPurpose purpose, uint64_t position, uint32_t lane) {
  const uint64_t key = Mix(Mix(seed) ^ static_cast<uint32_t>(purpose));
  key_ = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  counter_ = {0, lane, static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32)};
}

uint32_t RandomStream::Next32() {
  if (used_ == 4) {
    block_ = Philox(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[static_cast<size_t>(used_++)];
}

uint64_t RandomStream::Next64() {
  const uint64_t high = Next32();
  return high << 32 | Next32();
}

uint64_t RandomStream::Below(uint64_t bound) {
  // Rejects the incomplete last interval of the 64-bit range.
  const uint64_t threshold = (0 - bound) % bound;
  uint64_t draw = Next64();
  while (draw < threshold) draw = Next64();
  return draw % bound;
}

double RandomStream::Uniform() { return static_cast<double>(Next64() >> 11) * 0x1p-53; }

}  // namespace albef
