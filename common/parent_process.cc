#include "common/parent_process.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/file.h"

namespace albef {

absl::Status BindToParent(pid_t parent_pid) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return ErrnoStatus(errno, "bind to", fmt::format("parent process {}", parent_pid));
  }
  // A parent that ended before the call above sends no signal any more.
  if (const pid_t parent = ::getppid(); parent != parent_pid) {
    return absl::AbortedError(fmt::format(
        "--parent-pid {}: that process is gone (the parent is {} now); only it may start this one",
        parent_pid, parent));
  }
  return absl::OkStatus();
}

}  // namespace albef
