#include "common/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace albef {
namespace {

TEST(RandomStream, IsAFunctionOfItsCoordinates) {
  RandomStream a(7, RandomPurpose::kTokenMasking, 123, 2);
  RandomStream b(7, RandomPurpose::kTokenMasking, 123, 2);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(a.Next32(), b.Next32());
}

TEST(RandomStream, EveryCoordinateSelectsAnotherStream) {
  std::set<uint64_t> first;
  for (uint64_t seed : {0u, 1u}) {
    for (auto purpose : {RandomPurpose::kTokenMasking, RandomPurpose::kCaptionChoice}) {
      for (uint64_t position : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
        for (uint32_t lane : {0u, 1u}) {
          first.insert(RandomStream(seed, purpose, position, lane).Next64());
        }
      }
    }
  }
  EXPECT_EQ(first.size(), 24u);
}

TEST(RandomStream, BelowIsUniformAndInRange) {
  RandomStream stream(1, RandomPurpose::kSynthetic, 0);
  std::array<int, 7> count{};
  for (int i = 0; i < 70000; ++i) ++count.at(stream.Below(7));
  for (int c : count) EXPECT_NEAR(c, 10000, 500);  // 5 standard deviations
}

TEST(RandomStream, UniformHasTheMomentsOfTheUnitInterval) {
  RandomStream stream(1, RandomPurpose::kSynthetic, 1);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; ++i) {
    const double u = stream.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.005);
  EXPECT_NEAR(squares / 100000, 1.0 / 3, 0.005);
}

}  // namespace
}  // namespace albef
