// How a state is spread over files, and the writing of one of them.
//
// Seen end to end, the tensors of a state are cut into N runs of nearly equal bytes; cuts fall on
// block borders of the digest only, so whoever writes a shard also hashes whole blocks. A shard is
// the safetensors file shard-<i>-of-<N>.safetensors. A tensor that lies wholly in it has its own
// key; bytes [begin, end) of one that was cut are the one-dimensional tensor "<key>#<begin>". The
// elements of a file are ordered by falling element size (safetensors demands alignment), then by
// state-dict order.
//
// Each process may write its own shard and tell another one, which makes the manifest of the
// reports. All functions may be called from any thread.
#ifndef ALBEF_CHECKPOINT_SHARDS_H_
#define ALBEF_CHECKPOINT_SHARDS_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/digest.h"
#include "checkpoint/manifest.h"
#include "checkpoint/output_file.h"
#include "formats/tensor.h"

namespace albef {

inline constexpr int kMaxShards = 99'999;

// Bytes [begin, end) of ShardPlan::tensors[tensor_index].
struct ShardEntry {
  size_t tensor_index = 0;
  uint64_t begin = 0;
  uint64_t end = 0;

  friend bool operator==(const ShardEntry&, const ShardEntry&) = default;
};

struct Shard {
  std::string file_name;
  std::vector<ShardEntry> entries;  // in the order of the file
};

struct ShardPlan {
  std::vector<TensorInfo> tensors;  // the whole state, in state-dict order
  std::vector<Shard> shards;
};

// What the writer of a shard tells the one who commits.
struct ShardReport {
  std::string file_name;
  uint64_t header_bytes = 0;
  uint64_t num_bytes = 0;             // of the file, header included
  Hash128 hash;                       // of the file
  std::vector<Hash128> block_hashes;  // of its tensors, in the order of the file
};

// A pure function of its arguments: every worker makes the same plan. INVALID_ARGUMENT for a key
// that IsTensorKey refuses, a key given twice, a shape that is none, or a number of shards outside
// [1, kMaxShards].
absl::StatusOr<ShardPlan> PlanShards(std::vector<TensorInfo> tensors, int num_shards);

// The elements of a shard, in the order of the file.
std::vector<TensorInfo> DescribeShard(const ShardPlan& plan, const Shard& shard);

// The same as views into a state that fits the plan.
std::vector<NamedTensor> ShardTensors(const ShardPlan& plan, const Shard& shard,
                                      std::span<const NamedTensor> state);

// Writes and syncs directory/shard.file_name from `tensors` (ShardTensors, or equal views of a
// worker that holds no more than its share), without copying them.
absl::StatusOr<ShardReport> WriteShard(const std::filesystem::path& directory, const Shard& shard,
                                       std::span<const NamedTensor> tensors,
                                       const WriteFunction& write = WriteAll);

// The manifest of a checkpoint whose shards are all reported, in any order. FAILED_PRECONDITION
// names a shard that is missing, reported twice, or does not fit the plan.
absl::StatusOr<Manifest> AssembleManifest(const ShardPlan& plan, const CheckpointInfo& info,
                                          std::span<const ShardReport> reports);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_SHARDS_H_
