#include "worker/coordinator_process.h"

#include <fmt/format.h>
#include <unistd.h>

namespace albef {

std::vector<std::string> CoordinatorArguments(const CoordinatorCommand& command,
                                              std::optional<int64_t> after_term,
                                              int64_t parent_pid) {
  std::vector<std::string> arguments = {
      "--run-dir=" + command.run_dir.string(),
      command.serves_other_hosts ? "--listen=0.0.0.0:0" : "--listen=127.0.0.1:0",
      fmt::format("--parent-pid={}", parent_pid), "--progress"};
  if (command.serves_other_hosts) arguments.push_back("--insecure");
  if (!command.advertise.empty()) arguments.push_back("--advertise=" + command.advertise);
  if (after_term.has_value()) arguments.push_back(fmt::format("--after-term={}", *after_term));
  return arguments;
}

absl::StatusOr<std::unique_ptr<ChildProcess>> StartCoordinator(const CoordinatorCommand& command,
                                                               std::optional<int64_t> after_term) {
  return ChildProcess::Start({.program = command.program,
                              .arguments = CoordinatorArguments(command, after_term, ::getpid())});
}

}  // namespace albef
