#include "checkpoint/digest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "tests/checkpoint/test_state.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

// The serialisation of digest.h, written down once more without any of its code.
std::string DigestByTheBook(const std::vector<NamedTensor>& state) {
  std::string text;
  const auto put_integer = [&](uint64_t value) {
    for (int i = 0; i < 8; ++i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  };
  const auto hex_of = [](const void* data, size_t size) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
    return std::string(reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest));
  };
  for (const auto& [name, tensor] : state) {
    const std::string dtype(DTypeName(tensor.dtype));
    put_integer(name.size());
    text += name;
    put_integer(dtype.size());
    text += dtype;
    put_integer(tensor.shape.size());
    for (const int64_t size : tensor.shape) put_integer(static_cast<uint64_t>(size));
    std::vector<std::string> blocks;
    for (size_t begin = 0; begin < tensor.bytes.size(); begin += 1048576) {
      const size_t size = std::min<size_t>(1048576, tensor.bytes.size() - begin);
      blocks.push_back(hex_of(tensor.bytes.data() + begin, size));
    }
    put_integer(blocks.size());
    for (const std::string& block : blocks) text += block;
  }
  std::string hex;
  for (const unsigned char byte : hex_of(text.data(), text.size())) {
    hex += fmt::format("{:02x}", byte);
  }
  return hex;
}

TEST(Hash128, IsTheNumberThatXxhsumPrints) {
  EXPECT_EQ(ToHex(HashBytes({})), "99aa06d3014798d86001c324468d497f");
  StreamHash stream;
  EXPECT_EQ(stream.Finish(), HashBytes({}));
}

TEST(Hash128, SurvivesHexAndRefusesOtherText) {
  const Hash128 hash{.high = 0x0123'4567'89ab'cdef, .low = 1};
  EXPECT_EQ(ToHex(hash), "0123456789abcdef0000000000000001");
  EXPECT_EQ(HashFromHex(ToHex(hash)), hash);
  for (const char* text :
       {"", "0123456789abcdef000000000000000", "0123456789ABCDEF0000000000000001",
        "0123456789abcdef00000000000000011", "0x23456789abcdef0000000000000001",
        "0123456789abcdef 000000000000001", "-123456789abcdef0000000000000001"}) {
    EXPECT_FALSE(HashFromHex(text).has_value()) << text;
  }
}

TEST(StreamHash, DoesNotDependOnHowBytesArePieced) {
  TestState state;
  state.Add("a", DType::kU8, {100'000}, 3);
  const auto bytes = state.tensors[0].tensor.bytes;
  StreamHash stream;
  for (size_t begin = 0, size = 1; begin < bytes.size(); begin += size, size = size * 3 % 1009) {
    size = std::min(size, bytes.size() - begin);
    stream.Update(bytes.subspan(begin, size));
  }
  EXPECT_EQ(stream.Finish(), HashBytes(bytes));
}

TEST(StateDigest, IsWhatItsDefinitionSays) {
  // A fixed case: the digest is part of the format, so this number never changes.
  const std::vector<uint8_t> content = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<NamedTensor> fixed = {
      {"w", {DType::kF32, {2, 1}, std::as_bytes(std::span(content))}},
      {"empty", {DType::kI64, {0}, {}}}};
  EXPECT_EQ(ToHex(*StateDigest(fixed, 1)), DigestByTheBook(fixed));
  EXPECT_EQ(ToHex(*StateDigest(fixed, 1)), "5a233066b551b3a22cbb69c8925dc9d5");

  const TestState state = LargeState(7);
  EXPECT_EQ(ToHex(*StateDigest(state.tensors, 1)), DigestByTheBook(state.tensors));
  EXPECT_EQ(ToHex(*StateDigest(std::span<const NamedTensor>(), 1)), DigestByTheBook({}));
}

TEST(StateDigest, IsTheSameOnAnyNumberOfThreads) {
  const TestState state = LargeState(7);
  const Hash128 expected = *StateDigest(state.tensors, 1);
  for (const int num_threads : {-1, 0, 2, 3, 16}) {
    EXPECT_EQ(*StateDigest(state.tensors, num_threads), expected) << num_threads;
  }
}

TEST(StateDigest, ChangesWithEveryPartOfTheState) {
  const TestState state = SmallState(7);
  std::vector<Hash128> digests = {*StateDigest(state.tensors, 1)};
  const auto add_changed = [&](auto change) {
    std::vector<NamedTensor> changed = state.tensors;
    change(changed);
    digests.push_back(*StateDigest(changed, 1));
  };
  add_changed([](auto& tensors) { tensors[1].name += "x"; });
  add_changed([](auto& tensors) { tensors[1].tensor.dtype = DType::kI32; });
  add_changed([](auto& tensors) { tensors[1].tensor.shape = {17, 48}; });
  add_changed([](auto& tensors) { tensors[1].tensor.shape = {48, 17, 1}; });
  add_changed([](auto& tensors) { std::swap(tensors[0], tensors[1]); });
  add_changed([](auto& tensors) { tensors.pop_back(); });
  add_changed(
      [](auto& tensors) { std::erase_if(tensors, [](auto& t) { return t.name == "nothing"; }); });
  const TestState flipped = SmallState(7);
  (*flipped.storage)[1].back() ^= std::byte{1};
  digests.push_back(*StateDigest(flipped.tensors, 1));
  for (size_t i = 0; i < digests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(digests[i], digests[j]) << i << " " << j;
  }
}

TEST(StateDigest, CombinesHashesOfWorkersThatHashedTheirShare) {
  const TestState state = LargeState(7);
  std::vector<Hash128> combined;
  for (const auto& [name, tensor] : state.tensors) {
    // One worker has the first block, another the rest.
    const size_t border = std::min<size_t>(kDigestBlockBytes, tensor.bytes.size());
    for (const auto piece : {tensor.bytes.first(border), tensor.bytes.subspan(border)}) {
      for (const Hash128& hash : HashBlocks({&piece, 1}, 1)) combined.push_back(hash);
    }
  }
  EXPECT_EQ(*StateDigest(DescribeState(state.tensors), combined), *StateDigest(state.tensors, 2));
}

TEST(StateDigest, RefusesAWrongNumberOfHashesAndBytesThatDoNotFit) {
  const std::vector<TensorInfo> tensors = {{"a", DType::kF32, {4}}};
  EXPECT_THAT(std::string(StateDigest(tensors, {}).status().message()), HasSubstr("tensor a"));
  const std::vector<Hash128> two(2);
  EXPECT_THAT(std::string(StateDigest(tensors, two).status().message()), HasSubstr("no tensor"));
  const std::vector<TensorInfo> absurd = {{"a", DType::kF32, {int64_t{1} << 62}}};
  EXPECT_FALSE(StateDigest(absurd, two).ok());
  std::vector<std::byte> bytes(15);
  const std::vector<NamedTensor> short_state = {{"a", {DType::kF32, {4}, bytes}}};
  EXPECT_THAT(std::string(StateDigest(short_state, 1).status().message()),
              HasSubstr("tensor a has 15 bytes"));
}

}  // namespace
}  // namespace albef
