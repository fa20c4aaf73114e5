// A child process with nothing of ours that it should not have.
//
// It gets its own process group, default signal actions, none blocked, /dev/null as standard input,
// the descriptors that it is given (at 3, 4, …) and no others, and the environment without what
// MPI put there. Its end shows on a descriptor for poll.
//
// The kernel ties a child that calls BindToParent (common/parent_process.h) to the *thread* that
// started it: call Start only from a thread that lives as long as the process. Otherwise an object
// is for one thread at a time.
#ifndef ALBEF_WORKER_CHILD_PROCESS_H_
#define ALBEF_WORKER_CHILD_PROCESS_H_

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

struct ChildOptions {
  std::filesystem::path program = {};
  std::vector<std::string> arguments = {};  // without the program's name
  std::vector<int> descriptors = {};        // become 3, 4, … of the child
  std::optional<int> output = {};           // standard output and error; unset: ours
};

struct ChildExit {
  int exit_code = 0;  // where signal is 0
  int signal = 0;

  bool operator==(const ChildExit&) const = default;
};

// "exited with code 1", "was ended by signal 9 (Killed)".
std::string Describe(const ChildExit& exit);

class ChildProcess {
 public:
  // NOT_FOUND and so on name the program.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const ChildOptions& options);

  // SIGKILL to its process group, and waits: no zombie stays.
  ~ChildProcess();

  pid_t pid() const { return pid_; }

  // Readable once the child has ended. -1 after TryReap said so.
  int exit_fd() const { return pidfd_.get(); }

  // How it ended, and from then on always; nullopt while it lives. What is left of its process
  // group is killed with it.
  std::optional<ChildExit> TryReap();

  // SIGKILL to its process group. Nothing happens to a child that has ended.
  void Kill();

 private:
  ChildProcess(pid_t pid, FileDescriptor pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

  const pid_t pid_;
  FileDescriptor pidfd_;
  std::optional<ChildExit> exit_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_CHILD_PROCESS_H_
