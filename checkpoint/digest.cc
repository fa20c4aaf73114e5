#include "checkpoint/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <new>

#include "checkpoint/parallel_for.h"

namespace albef {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are hashed as they lie");

constexpr size_t kHexDigits = 32;

Hash128 FromXxh(const XXH128_hash_t& hash) { return {.high = hash.high64, .low = hash.low64}; }

void UpdateInteger(StreamHash& hash, uint64_t value) {
  hash.Update(std::as_bytes(std::span(&value, 1)));
}

void UpdateText(StreamHash& hash, std::string_view text) {
  UpdateInteger(hash, text.size());
  hash.Update(std::as_bytes(std::span(text)));
}

}  // namespace

std::string ToHex(const Hash128& hash) {
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

std::optional<Hash128> HashFromHex(std::string_view text) {
  if (text.size() != kHexDigits) return std::nullopt;
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (!std::ranges::all_of(text, is_digit)) return std::nullopt;
  Hash128 hash;
  const char* const middle = text.data() + kHexDigits / 2;
  std::from_chars(text.data(), middle, hash.high, 16);
  std::from_chars(middle, text.data() + kHexDigits, hash.low, 16);
  return hash;
}

std::string HashToBytes(const Hash128& hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, {.low64 = hash.low, .high64 = hash.high});
  return {reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest)};
}

std::optional<Hash128> HashFromBytes(std::string_view bytes) {
  XXH128_canonical_t canonical;
  if (bytes.size() != sizeof(canonical.digest)) return std::nullopt;
  std::ranges::copy(bytes, canonical.digest);
  return FromXxh(XXH128_hashFromCanonical(&canonical));
}

Hash128 HashBytes(std::span<const std::byte> bytes) {
  return FromXxh(XXH3_128bits(bytes.data(), bytes.size()));
}

void StreamHash::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

StreamHash::StreamHash() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_.get());
}

void StreamHash::Update(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

Hash128 StreamHash::Finish() const { return FromXxh(XXH3_128bits_digest(state_.get())); }

std::vector<TensorInfo> DescribeState(std::span<const NamedTensor> state) {
  std::vector<TensorInfo> tensors;
  tensors.reserve(state.size());
  for (const auto& [name, tensor] : state) tensors.push_back({name, tensor.dtype, tensor.shape});
  return tensors;
}

std::vector<Hash128> HashBlocks(std::span<const std::span<const std::byte>> pieces,
                                int num_threads) {
  std::vector<std::span<const std::byte>> blocks;
  for (std::span<const std::byte> rest : pieces) {
    while (!rest.empty()) {
      blocks.push_back(rest.first(std::min<size_t>(rest.size(), kDigestBlockBytes)));
      rest = rest.subspan(blocks.back().size());
    }
  }
  std::vector<Hash128> hashes(blocks.size());
  ParallelFor(blocks.size(), num_threads, [&](size_t i) { hashes[i] = HashBytes(blocks[i]); });
  return hashes;
}

absl::StatusOr<Hash128> StateDigest(std::span<const TensorInfo> tensors,
                                    std::span<const Hash128> block_hashes) {
  StreamHash digest;
  std::span<const Hash128> rest = block_hashes;
  for (const TensorInfo& tensor : tensors) {
    const std::optional<size_t> num_bytes = ByteSize(tensor.dtype, tensor.shape);
    if (!num_bytes.has_value() || NumBlocks(*num_bytes) > rest.size()) {
      return absl::InvalidArgumentError(
          fmt::format("state digest: {} block hashes end within tensor {} with shape [{}] of {}",
                      block_hashes.size(), tensor.name, fmt::join(tensor.shape, ", "),
                      DTypeName(tensor.dtype)));
    }
    UpdateText(digest, tensor.name);
    UpdateText(digest, DTypeName(tensor.dtype));
    UpdateInteger(digest, tensor.shape.size());
    for (const int64_t size : tensor.shape) UpdateInteger(digest, static_cast<uint64_t>(size));
    const uint64_t num_blocks = NumBlocks(*num_bytes);
    UpdateInteger(digest, num_blocks);
    for (const Hash128& hash : rest.first(num_blocks)) {
      XXH128_canonical_t canonical;
      XXH128_canonicalFromHash(&canonical, {.low64 = hash.low, .high64 = hash.high});
      digest.Update(std::as_bytes(std::span(canonical.digest)));
    }
    rest = rest.subspan(num_blocks);
  }
  if (!rest.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("state digest: {} of {} block hashes belong to no tensor", rest.size(),
                    block_hashes.size()));
  }
  return digest.Finish();
}

absl::StatusOr<Hash128> StateDigest(std::span<const NamedTensor> state, int num_threads) {
  std::vector<std::span<const std::byte>> pieces;
  pieces.reserve(state.size());
  for (const auto& [name, tensor] : state) {
    if (ByteSize(tensor.dtype, tensor.shape) != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          fmt::format("state digest: tensor {} has {} bytes, which is not shape [{}] of {}", name,
                      tensor.bytes.size(), fmt::join(tensor.shape, ", "), DTypeName(tensor.dtype)));
    }
    pieces.push_back(tensor.bytes);
  }
  return StateDigest(DescribeState(state), HashBlocks(pieces, num_threads));
}

}  // namespace albef
