// Turns off what Debian's absl does in every lock of gRPC: it is built as for debugging, and looks
// for cycles in the order of locks, which costs a fifth of the time of a program that does little
// but pass messages on.
//
// For main(), before there is any other thread.
#ifndef ALBEF_COMMON_LOCK_CHECKS_H_
#define ALBEF_COMMON_LOCK_CHECKS_H_

#include "absl/synchronization/mutex.h"

namespace albef {

inline void TurnOffLockChecks() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

}  // namespace albef

#endif  // ALBEF_COMMON_LOCK_CHECKS_H_
