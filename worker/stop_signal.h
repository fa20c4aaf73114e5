// Turns INT, TERM and USR2 into a request that the training loop sees at its next boundary.
//
// The first signal asks for a checkpoint and an orderly end (exit code 75); a second INT ends the
// process at once with 130. What a signal may touch is process-wide by nature, so this is too.
#ifndef ALBEF_WORKER_STOP_SIGNAL_H_
#define ALBEF_WORKER_STOP_SIGNAL_H_

#include <string_view>

namespace albef {

// Call once from main before any thread starts. Also ignores PIPE: a closed pipe is a write error.
void InstallStopSignals();

// Safe from any thread.
bool StopRequested();

// "SIGTERM" and so on; empty before the first signal.
std::string_view StopSignalName();

}  // namespace albef

#endif  // ALBEF_WORKER_STOP_SIGNAL_H_
