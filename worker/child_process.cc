#include "worker/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "common/status_macros.h"

namespace albef {
namespace {

constexpr int kFirstDescriptor = 3;
// Where descriptors wait on their way to 3, 4, …, so that none is overwritten before its turn.
constexpr int kParkedDescriptor = 64;

struct SpawnFiles {
  SpawnFiles() { ::posix_spawn_file_actions_init(&actions); }
  SpawnFiles(const SpawnFiles&) = delete;
  SpawnFiles& operator=(const SpawnFiles&) = delete;
  ~SpawnFiles() { ::posix_spawn_file_actions_destroy(&actions); }
  posix_spawn_file_actions_t actions;
};

struct SpawnAttributes {
  SpawnAttributes() {
    ::posix_spawnattr_init(&attributes);
    sigset_t signals;
    ::sigfillset(&signals);
    ::posix_spawnattr_setsigdefault(&attributes, &signals);
    ::sigemptyset(&signals);
    ::posix_spawnattr_setsigmask(&attributes, &signals);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  }
  SpawnAttributes(const SpawnAttributes&) = delete;
  SpawnAttributes& operator=(const SpawnAttributes&) = delete;
  ~SpawnAttributes() { ::posix_spawnattr_destroy(&attributes); }
  posix_spawnattr_t attributes;
};

std::vector<char*> EnvironmentWithoutMpi() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.substr(0, 5) != "OMPI_" && text.substr(0, 5) != "PMIX_") kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

}  // namespace

std::string Describe(const ChildExit& exit) {
  if (exit.signal == 0) return fmt::format("exited with code {}", exit.exit_code);
  return fmt::format("was ended by signal {} ({})", exit.signal, ::strsignal(exit.signal));
}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const ChildOptions& options) {
  const std::string program = options.program.string();
  std::vector<FileDescriptor> parked;
  SpawnFiles files;
  ::posix_spawn_file_actions_addopen(&files.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  const auto pass = [&](int ours, int theirs) -> absl::Status {
    FileDescriptor copy(::fcntl(ours, F_DUPFD_CLOEXEC, kParkedDescriptor));
    if (!copy.valid()) return ErrnoStatus(errno, "pass a descriptor to", program);
    ::posix_spawn_file_actions_adddup2(&files.actions, copy.get(), theirs);
    parked.push_back(std::move(copy));
    return absl::OkStatus();
  };
  if (options.output.has_value()) {
    RETURN_IF_ERROR(pass(*options.output, STDOUT_FILENO));
    RETURN_IF_ERROR(pass(*options.output, STDERR_FILENO));
  }
  int next = kFirstDescriptor;
  for (const int descriptor : options.descriptors) RETURN_IF_ERROR(pass(descriptor, next++));
  ::posix_spawn_file_actions_addclosefrom_np(&files.actions, next);

  std::vector<std::string> arguments = {program};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> environment = EnvironmentWithoutMpi();

  const SpawnAttributes attributes;
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, program.c_str(), &files.actions, &attributes.attributes,
                                  argv.data(), environment.data());
  if (error != 0) return ErrnoStatus(error, "start", program);
  // The child is not reaped yet, so the pid is still its own.
  FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) {
    const absl::Status status = ErrnoStatus(errno, "watch", program);
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return status;
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, std::move(pidfd)));
}

ChildProcess::~ChildProcess() {
  Kill();
  while (!exit_.has_value()) {
    siginfo_t info = {};
    if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno != EINTR) {
      return;
    }
    TryReap();
  }
}

std::optional<ChildExit> ChildProcess::TryReap() {
  if (exit_.has_value()) return exit_;
  siginfo_t info = {};
  const int options = WEXITED | WNOHANG;
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, options | WNOWAIT) != 0 || info.si_pid == 0) {
    return std::nullopt;
  }
  // While the child is not reaped, nobody else can be this group.
  ::kill(-pid_, SIGKILL);
  ::waitid(P_PID, static_cast<id_t>(pid_), &info, options);
  exit_ = info.si_code == CLD_EXITED ? ChildExit{.exit_code = info.si_status}
                                     : ChildExit{.signal = info.si_status};
  pidfd_ = FileDescriptor();
  return exit_;
}

void ChildProcess::Kill() {
  if (!exit_.has_value()) ::kill(-pid_, SIGKILL);
}

}  // namespace albef
