// A run's directory: who may write to it, and what starting a run there means (design §11).
#ifndef ALBEF_COORDINATOR_RUN_DIRECTORY_H_
#define ALBEF_COORDINATOR_RUN_DIRECTORY_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/file.h"
#include "coordinator/recorder.h"

namespace albef {

// `--resume`.
struct ResumeRequest {
  enum class Mode {
    kDefault,  // go on if there is something to go on from and nothing speaks against it
    kAuto,     // also after a failure that a restart was not expected to fix
    kNever,    // a new run, refused where checkpoints are
    kPath,     // a new run that begins with the state in `path`
  };
  Mode mode = Mode::kDefault;
  std::filesystem::path
      path;  // kPath: an authors' checkpoint_XX.pth or a checkpoint folder of ours
};

ResumeRequest ParseResumeRequest(const std::string& value);

struct StartFacts {
  std::filesystem::path run_dir;
  bool has_checkpoints = false;
  std::optional<Outcome> finished;  // how the last attempt ended, if it could say so
  int64_t target_step = 0;          // where the run shall end
};

enum class StartAction {
  kNew,          // initial weights
  kImport,       // a new run from ResumeRequest::path
  kContinue,     // from the newest valid checkpoint
  kAlreadyDone,  // nothing to do
};

// Pure. FAILED_PRECONDITION says what stands in the way and what to do about it.
absl::StatusOr<StartAction> DecideStart(const StartFacts& facts, const ResumeRequest& resume);

// Creates the directory and holds it for this process until destruction; FAILED_PRECONDITION when
// another live process holds it. The kernel releases the lock of a killed process.
class RunDirectoryLock {
 public:
  static absl::StatusOr<RunDirectoryLock> Acquire(const std::filesystem::path& run_dir);

 private:
  explicit RunDirectoryLock(FileDescriptor fd) : fd_(std::move(fd)) {}

  FileDescriptor fd_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_DIRECTORY_H_
