// manifest.json: what a checkpoint holds, where each byte of each tensor lies, and the hashes that
// prove it.
//
// One JSON object whose first member is the XXH3-128 of all text after that member's digits, so
// that any changed byte of the manifest shows; then format and version, counters, facts, the files
// with size and XXH3-128, and the tensors with the file ranges that make them up.
//
// The parser takes the text as hostile: unknown, missing, repeated and mistyped members, names that
// are no plain file names, ranges outside of their file, overlapping or unaligned ones, and tensors
// that are not covered exactly once are INVALID_ARGUMENT naming the place; a newer version is
// FAILED_PRECONDITION, for such a manifest is not damaged.
#ifndef ALBEF_CHECKPOINT_MANIFEST_H_
#define ALBEF_CHECKPOINT_MANIFEST_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/digest.h"

namespace albef {

inline constexpr std::string_view kManifestName = "manifest.json";

// Progress of the run at the checkpoint (design §4).
struct CheckpointCounters {
  int64_t iteration = 0;
  int64_t updates = 0;
  int64_t ema_updates = 0;
  int64_t epoch = 0;

  friend bool operator==(const CheckpointCounters&, const CheckpointCounters&) = default;
};

// What the trainer says about the state it saves.
struct CheckpointInfo {
  CheckpointCounters counters;
  std::string config_digest;
  int64_t virtual_ranks = 1;
  uint64_t seed = 0;
  // Where it was computed: library versions, instruction set, device … Compared by people and by
  // warnings, never a condition of loading.
  std::map<std::string, std::string> facts;

  friend bool operator==(const CheckpointInfo&, const CheckpointInfo&) = default;
};

struct ManifestFile {
  std::string name;
  uint64_t num_bytes = 0;
  Hash128 hash;

  friend bool operator==(const ManifestFile&, const ManifestFile&) = default;
};

// Bytes [begin, end) of a tensor, at `file_begin` of files[file_index].
struct TensorPart {
  size_t file_index = 0;
  uint64_t file_begin = 0;
  uint64_t begin = 0;
  uint64_t end = 0;

  friend bool operator==(const TensorPart&, const TensorPart&) = default;
};

struct ManifestTensor {
  TensorInfo info;
  // In order; each begins on a block border. An empty tensor has one empty part.
  std::vector<TensorPart> parts;

  friend bool operator==(const ManifestTensor&, const ManifestTensor&) = default;
};

struct Manifest {
  CheckpointInfo info;
  Hash128 state_digest;
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;  // state-dict order

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

// Keys of a state are printable ASCII without '#', which marks slices in shard files.
bool IsTensorKey(std::string_view key);

// The text of the file. Facts that are not valid UTF-8 are written with replacement characters.
std::string FormatManifest(const Manifest& manifest);

// `path` names the text in errors.
absl::StatusOr<Manifest> ParseManifest(std::string_view text, std::string_view path);

// The conditions on names, ranges and coverage that the parser imposes.
absl::Status CheckManifest(const Manifest& manifest);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_MANIFEST_H_
