// The coordinator that a worker starts as its child (design §2, embedded).
//
// It prints on our standard error. For one thread, which must live as long as the process
// (child_process.h).
#ifndef ALBEF_WORKER_COORDINATOR_PROCESS_H_
#define ALBEF_WORKER_COORDINATOR_PROCESS_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/child_process.h"

namespace albef {

struct CoordinatorCommand {
  std::filesystem::path program = {};
  std::filesystem::path run_dir = {};
  // Workers on other hosts must reach it: all addresses instead of the loopback, which needs
  // --insecure.
  bool serves_other_hosts = false;
  std::string advertise = {};  // as the worker was told; empty: its own choice
};

// Its command line (without the program's name). `after_term`: claim exactly the next one.
std::vector<std::string> CoordinatorArguments(const CoordinatorCommand& command,
                                              std::optional<int64_t> after_term,
                                              int64_t parent_pid);

absl::StatusOr<std::unique_ptr<ChildProcess>> StartCoordinator(const CoordinatorCommand& command,
                                                               std::optional<int64_t> after_term);

}  // namespace albef

#endif  // ALBEF_WORKER_COORDINATOR_PROCESS_H_
