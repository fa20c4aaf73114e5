// A child process that must not outlive the process that started it.
#ifndef ALBEF_COMMON_PARENT_PROCESS_H_
#define ALBEF_COMMON_PARENT_PROCESS_H_

#include <sys/types.h>

#include "absl/status/status.h"

namespace albef {

// The first act of a program that was given `--parent-pid`, before anything that takes time and
// before any thread: from here on the kernel kills this process when its parent ends, however it
// ends. ABORTED when the parent ended before that could be arranged: exit at once, nobody waits.
absl::Status BindToParent(pid_t parent_pid);

}  // namespace albef

#endif  // ALBEF_COMMON_PARENT_PROCESS_H_
