// Mutations of archives, the same in every run: nothing crashes, hangs or points outside.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/dataloader/tar_builder.h"
#include "tests/fuzz/mutation.h"

namespace albef {
namespace {

std::vector<std::string> Seeds() {
  const std::string long_name(200, 'n');
  return {
      TarBuilder().Add("a.jpg", "A").Add("a.txt", "one").Add("b.jpg", std::string(600, 'B')).End(),
      TarBuilder().AddGnuLong(long_name + ".jpg", "A").AddGnuLong(long_name + ".txt", "x").End(),
      TarBuilder()
          .AddPax(TarBuilder::PaxRecord("path", long_name + ".jpg") +
                      TarBuilder::PaxRecord("size", "1"),
                  "short", "A")
          .Add("g", TarBuilder::PaxRecord("comment", "c"), 'g')
          .End(),
      TarBuilder()
          .Add("a.json", R"({"caption": ["one", "two \u00e9"], "n": [1, {"k": null}]})")
          .Add("a.png", "P")
          .Raw(TarBuilder::Header("s.jpg", "00000000003", 'S'))
          .Raw(std::string(512, 's'))
          .Raw(
              TarBuilder::Header("b", std::string_view("\x80\0\0\0\0\0\0\0\0\0\0\1", 12), '0', "p"))
          .Raw(std::string(512, 'b'))
          .End()};
}

// Headers whose checksum holds again, so that mutations reach what lies behind it.
std::string WithChecksums(std::string content) {
  for (size_t at = 0; at + 512 <= content.size(); at += 512) {
    if (content.compare(at + 257, 5, "ustar") != 0) continue;
    content.replace(at + 148, 8, "        ");
    unsigned sum = 0;
    for (size_t i = 0; i < 512; ++i) sum += static_cast<uint8_t>(content[at + i]);
    content.replace(at + 148, 7, fmt::format("{:06o}", sum) + std::string(1, '\0'));
  }
  return content;
}

TEST(ShardFuzz, NoMutationOfAnArchiveCrashes) {
  const std::vector<std::string> seeds = Seeds();
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    for (uint64_t i = 0; i < 3000; ++i) {
      RandomStream random(seed, RandomPurpose::kSynthetic, i);
      const std::string content =
          Mutated(seeds, seed, {.max_mutations = 4, .share_at_start = 0.2}, random);
      RunFuzzTarget(content);
      RunFuzzTarget(WithChecksums(content));
    }
  }
}

TEST(ShardFuzz, NoPrefixOfAnArchiveCrashes) {
  for (const std::string& seed : Seeds()) {
    for (size_t size = 0; size < seed.size(); size += 7) RunFuzzTarget(seed.substr(0, size));
  }
}

}  // namespace
}  // namespace albef
