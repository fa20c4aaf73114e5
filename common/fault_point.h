// Named places at which a test can make a process fail. Compiled into every program and inert
// unless the environment says otherwise:
//
//   ALBEF_FAULT      faults, separated by spaces: PROCESS/PHASE[@AT]:ACTION
//   ALBEF_FAULT_DIR  an existing folder; required where ALBEF_FAULT is set
//
//   PROCESS  as the program names itself to SetFaultProcess, "trainer.1", or only its part before
//            the dot: whichever trainer comes there first
//   PHASE    the name of a FaultPoint: "gate"
//   AT       the value passed there, e.g. an iteration; where none is passed, the how manieth time
//            this process comes there, from 1. Without @AT: the first time
//   ACTION   kill   SIGKILL to itself
//            stop   SIGSTOP to itself; goes on after SIGCONT
//            exit=N ends with code N, nothing destroyed
//            abort  as a failed assertion
//            hang   this thread never returns
//            hold   waits until the mark is removed: the test does what it likes meanwhile
//            damage FaultPoint returns true: the caller spoils its data in the way it documents
//            value=N FaultValue returns N: the caller uses it in the way it documents
//
// Each fault happens once, whatever the number of processes that come there: the one that creates
// its mark ALBEF_FAULT_DIR/<PROCESS>-<PHASE>[@AT]-<ACTION> ('=' as it is) carries it out. The mark
// holds the pid and shows the test that the fault took place. An action followed by '*' is carried
// out every time by every process that comes there, marked the first time. Children inherit the
// environment, so one variable given to the first process reaches all.
//
// Example: ALBEF_FAULT="trainer.1/gate@7:kill coordinator/checkpoint_renamed:stop".
#ifndef ALBEF_COMMON_FAULT_POINT_H_
#define ALBEF_COMMON_FAULT_POINT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// Reads the environment and names this process: once in main, before the first thread. Says loudly
// that faults are armed. INVALID_ARGUMENT for what it does not understand: a test with a misspelt
// fault would pass for nothing.
absl::Status SetFaultProcess(std::string_view process);

// Does nothing before SetFaultProcess, and nothing when no fault is armed (one atomic load). Safe
// from any thread. True: damage was asked for.
bool FaultPoint(std::string_view phase, std::optional<int64_t> at = std::nullopt);

// The same for a place where a test may want a number, for which it has armed value=N.
std::optional<int> FaultValue(std::string_view phase, std::optional<int64_t> at = std::nullopt);

struct Fault {
  std::string process;
  std::string phase;
  std::optional<int64_t> at;
  std::string action;  // kill, stop, exit, abort, hang, hold, damage, value
  int number = 0;      // of exit=N and value=N
  bool is_repeated = false;
  std::string mark;  // file name

  bool operator==(const Fault&) const = default;
};

// The grammar above.
absl::StatusOr<std::vector<Fault>> ParseFaults(std::string_view text);

}  // namespace albef

#endif  // ALBEF_COMMON_FAULT_POINT_H_
