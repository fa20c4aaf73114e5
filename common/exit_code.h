// Exit codes of all programs (design §11): part of the command-line contract, scripts rely on them.
#ifndef ALBEF_COMMON_EXIT_CODE_H_
#define ALBEF_COMMON_EXIT_CODE_H_

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

}  // namespace albef

#endif  // ALBEF_COMMON_EXIT_CODE_H_
