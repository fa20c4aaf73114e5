// Names in RUN_DIR/checkpoints, and what lies there. The folder itself is the catalogue: it is
// read anew whenever somebody asks.
//
//   step-0000001200/                  committed
//   step-0000001200.t3.g7.partial/    being written in term 3, generation 7, or left by a crash
//   step-0000001200.deleting/         on its way out
//   step-0000001200.damaged-1/        failed its verification; kept for a person to look at
//   step-0000001200.replaced-1/       made way for another checkpoint of the same step
#ifndef ALBEF_CHECKPOINT_CATALOGUE_H_
#define ALBEF_CHECKPOINT_CATALOGUE_H_

#include <compare>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace albef {

// A checkpoint that is being written. Shards of different terms or generations never mix.
struct PartialId {
  int64_t step = 0;
  uint64_t term = 0;
  uint64_t generation = 0;

  friend auto operator<=>(const PartialId&, const PartialId&) = default;
};

// `step` must not be negative.
std::string StepName(int64_t step);
std::string PartialName(const PartialId& id);
std::string DeletingName(int64_t step);

// The inverses; nothing for a name that the functions above would not make.
std::optional<int64_t> ParseStepName(std::string_view name);
std::optional<PartialId> ParsePartialName(std::string_view name);
std::optional<int64_t> ParseDeletingName(std::string_view name);

struct Catalogue {
  std::vector<int64_t> committed;  // newest first
  std::vector<PartialId> partial;
  std::vector<int64_t> deleting;
};

// Lists a folder. What is no folder or has another name is somebody else's and left out.
absl::StatusOr<Catalogue> ScanCheckpoints(const std::filesystem::path& root);

// The checkpoint that people mean by `path`: the folder of one, or the newest committed one of a
// run directory or of a run's checkpoints/. Not verified. NOT_FOUND names what holds none.
absl::StatusOr<std::filesystem::path> FindCheckpoint(const std::filesystem::path& path);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_CATALOGUE_H_
