#include "coordinator/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>
#include <utility>

#include "common/exit_code.h"
#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

ResumeRequest ParseResumeRequest(const std::string& value) {
  if (value.empty()) return {};
  if (value == "auto") return {.mode = ResumeRequest::Mode::kAuto, .path = {}};
  if (value == "never") return {.mode = ResumeRequest::Mode::kNever, .path = {}};
  return {.mode = ResumeRequest::Mode::kPath, .path = value};
}

absl::StatusOr<StartAction> DecideStart(const StartFacts& facts, const ResumeRequest& resume) {
  using Mode = ResumeRequest::Mode;
  const std::string run_dir = facts.run_dir.string();
  if (resume.mode == Mode::kNever && facts.has_checkpoints) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: holds checkpoints of an earlier run, which --resume never would mix with a "
        "new one; choose another --run-dir or drop --resume never",
        run_dir));
  }
  if (facts.finished && facts.finished->state == "SUCCEEDED" &&
      facts.target_step <= facts.finished->step) {
    return StartAction::kAlreadyDone;
  }
  if (facts.finished && facts.finished->exit_code == static_cast<int>(ExitCode::kFailed) &&
      resume.mode != Mode::kAuto) {
    return absl::FailedPreconditionError(
        fmt::format("{}: the run failed in a way that a restart does not fix ({}); once the cause "
                    "is gone, start "
                    "it again with --resume auto",
                    run_dir, facts.finished->reason));
  }
  // Whatever it began with, a run goes on from its own newest state.
  if (facts.has_checkpoints) return StartAction::kContinue;
  return resume.mode == Mode::kPath ? StartAction::kImport : StartAction::kNew;
}

absl::StatusOr<RunDirectoryLock> RunDirectoryLock::Acquire(const fs::path& run_dir) {
  RETURN_IF_ERROR(CreateDirectories(run_dir));
  const fs::path path = run_dir / "lock";
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", path);
    return absl::FailedPreconditionError(
        fmt::format("{}: another process is training in this directory; wait for it, stop it, or "
                    "choose another "
                    "--run-dir",
                    run_dir.string()));
  }
  return RunDirectoryLock(std::move(fd));
}

}  // namespace albef
