// What a run that is over left in its directory, in the words of its coordinator: the answers of
// albefctl when there is nobody to ask any more.
//
// Safe to call from any thread and while others write there.
#ifndef ALBEF_TOOLS_FINISHED_RUN_H_
#define ALBEF_TOOLS_FINISHED_RUN_H_

#include <filesystem>
#include <optional>

#include "absl/status/statusor.h"
#include "proto/coordinator.pb.h"

namespace albef {

// nullopt where no attempt has ended, or a coordinator was started after that end.
absl::StatusOr<std::optional<v1::RunStatus>> ReadFinishedRun(const std::filesystem::path& run_dir);

// Those with a readable manifest, newest first. Their content is not verified.
absl::StatusOr<v1::ListCheckpointsResponse> ReadCheckpoints(const std::filesystem::path& run_dir);

}  // namespace albef

#endif  // ALBEF_TOOLS_FINISHED_RUN_H_
