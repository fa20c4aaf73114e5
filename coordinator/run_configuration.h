// From what workers were asked to run to what the coordinator does: the limits of the run's state
// machine, the preparation of the run directory, and whether a later worker wants the same run.
#ifndef ALBEF_COORDINATOR_RUN_CONFIGURATION_H_
#define ALBEF_COORDINATOR_RUN_CONFIGURATION_H_

#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config.h"
#include "coordinator/run_machine.h"
#include "proto/coordinator.pb.h"

namespace albef {

// The configuration in a request, without a look at the files that it names.
absl::StatusOr<RunConfig> ParseRequest(const v1::RunRequest& request);

// The configuration in force: RUN_DIR/config.yaml.
absl::StatusOr<RunConfig> ReadRunConfiguration(const std::filesystem::path& run_dir);

// What `elastic` says, in the machine's terms. The rest of the options is left as it is.
void SetElasticOptions(const RunConfig& config, RunMachine::Options& options);

// Fixes the configuration, reads the data (which takes its time) and writes RUN_DIR/config.yaml.
// The process must have the right to coordinate the run.
std::variant<run_event::Configured, run_event::NotConfigured> PrepareRun(
    const v1::RunRequest& request, const FirstStart& facts, const std::filesystem::path& run_dir);

// Not thread-safe.
class RequestCheck {
 public:
  RequestCheck(RunConfig config, std::string device)
      : config_(std::move(config)), device_(std::move(device)) {}

  // FAILED_PRECONDITION names the keys that would change the result.
  absl::Status Check(const v1::RunRequest& request);

 private:
  RunConfig config_;
  std::string device_;
  std::set<std::string> accepted_;  // texts; workers that are started together send the same
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_CONFIGURATION_H_
