// A committed checkpoint as the messages of the coordinator describe it, from its folder.
//
// Reads only; safe to call from any thread and while others write beside it.
#ifndef ALBEF_COORDINATOR_COMMITTED_CHECKPOINT_H_
#define ALBEF_COORDINATOR_COMMITTED_CHECKPOINT_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "checkpoint/manifest.h"
#include "proto/coordinator.pb.h"

namespace albef {

// The checkpoint of `step` in the folder of checkpoints `root`, whose manifest is given. Its size
// is that of all files; the manifest is written last, which is when it was committed.
absl::StatusOr<v1::Checkpoint> DescribeCheckpoint(const std::filesystem::path& root, int64_t step,
                                                  const Manifest& manifest);

// The same with the manifest that is there; content is not verified. Errors as of ReadManifest.
absl::StatusOr<v1::Checkpoint> DescribeCheckpoint(const std::filesystem::path& root, int64_t step);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_COMMITTED_CHECKPOINT_H_
