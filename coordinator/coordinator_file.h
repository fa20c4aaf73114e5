// RUN_DIR/coordinator.json: where the run's coordinator is. Replaced as a whole whenever another
// one takes over, so whoever loses the coordinator reads it again. Only its owner may read it.
#ifndef ALBEF_COORDINATOR_COORDINATOR_FILE_H_
#define ALBEF_COORDINATOR_COORDINATOR_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

struct CoordinatorInfo {
  std::string run_id = {};
  int64_t term = 0;
  std::string address = {};          // HOST:PORT of the services
  std::string metrics_address = {};  // HOST:PORT of /metrics
  int64_t pid = 0;
  std::string host = {};  // on which that process runs

  bool operator==(const CoordinatorInfo&) const = default;
};

// NOT_FOUND while no coordinator has been started for this run, DATA_LOSS for a file that is none.
absl::StatusOr<CoordinatorInfo> ReadCoordinatorFile(const std::filesystem::path& run_dir);

absl::Status WriteCoordinatorFile(const std::filesystem::path& run_dir,
                                  const CoordinatorInfo& info);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_COORDINATOR_FILE_H_
