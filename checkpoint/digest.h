// Content hashes of checkpoints: XXH3-128 of files and blocks, and the digest of a training state
// (design §7).
//
// A tensor is cut into blocks of 1 MiB (the last may be shorter, an empty tensor has none), each
// hashed on its own, so that any number of threads or workers can hash their share and one of them
// combines. The digest of a state is XXH3-128 (seed 0) over this serialisation of its tensors in
// state-dict order; integers are 64 bits, little-endian:
//   length of the key, key,
//   length of the dtype's safetensors name, name ("F32", "I64" …),
//   number of dimensions, each dimension,
//   number of blocks, the hash of each block in canonical form (16 bytes, big-endian, as xxhsum
//   prints it).
// It depends neither on threads, nor on shards, nor on padding between tensors. Counters belong to
// it as tensors of the state.
//
// Everything here is free of shared state; call it from any thread.
#ifndef ALBEF_CHECKPOINT_DIGEST_H_
#define ALBEF_CHECKPOINT_DIGEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/tensor.h"

struct XXH3_state_s;

namespace albef {

inline constexpr uint64_t kDigestBlockBytes = uint64_t{1} << 20;

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;

  friend bool operator==(const Hash128&, const Hash128&) = default;
};

// 32 lower-case digits, the number `xxhsum -H128` prints for a file.
std::string ToHex(const Hash128& hash);

// The inverse; nothing for any other text.
std::optional<Hash128> HashFromHex(std::string_view text);

// The canonical form, 16 bytes, big-endian; and its inverse, nothing for any other number of bytes.
std::string HashToBytes(const Hash128& hash);
std::optional<Hash128> HashFromBytes(std::string_view bytes);

Hash128 HashBytes(std::span<const std::byte> bytes);

// XXH3-128 of bytes that come in pieces.
class StreamHash {
 public:
  StreamHash();

  void Update(std::span<const std::byte> bytes);
  Hash128 Finish() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

// What the digest, the shards and the manifest know of a tensor: all but its bytes.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

std::vector<TensorInfo> DescribeState(std::span<const NamedTensor> state);

// Blocks in a tensor, or a piece of one, of that many bytes.
constexpr uint64_t NumBlocks(uint64_t num_bytes) {
  return num_bytes / kDigestBlockBytes + (num_bytes % kDigestBlockBytes != 0);
}

// Hashes of all blocks of all pieces, in order, on up to `num_threads` threads. A piece is a tensor
// or a range of one that begins on a block border (and ends on one or with the tensor).
std::vector<Hash128> HashBlocks(std::span<const std::span<const std::byte>> pieces,
                                int num_threads);

// Combines the block hashes of a whole state, in the order of `tensors`. INVALID_ARGUMENT for a
// number of hashes that does not fit the shapes.
absl::StatusOr<Hash128> StateDigest(std::span<const TensorInfo> tensors,
                                    std::span<const Hash128> block_hashes);

// The digest of a state held in memory. INVALID_ARGUMENT names the tensor whose bytes do not fit
// its shape.
absl::StatusOr<Hash128> StateDigest(std::span<const NamedTensor> state, int num_threads);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_DIGEST_H_
