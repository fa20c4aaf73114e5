// Exit codes of all programs (design §11): part of the command-line contract, scripts rely on them.
#ifndef ALBEF_COMMON_EXIT_CODE_H_
#define ALBEF_COMMON_EXIT_CODE_H_

#include "absl/status/status.h"

namespace albef {

enum class ExitCode : int {
  kDone = 0,
  kOther = 1,
  kUsage = 64,         // command line or configuration
  kStorage = 74,       // a full or failing disk
  kPreempted = 75,     // run the same command again to go on
  kFailed = 93,        // a restart cannot fix it
  kInterrupted = 130,  // second INT
};

// How a program ends that has nothing left to try after `status`: kDone for OK, and by its code
// alone otherwise. ABORTED stands for what a restart cannot fix; a code that no component returns
// on purpose is kOther. Safe to call from any thread.
ExitCode ExitCodeFor(const absl::Status& status);

}  // namespace albef

#endif  // ALBEF_COMMON_EXIT_CODE_H_
