// The states of a run in the words that people and JSON see. Pure functions.
#ifndef ALBEF_COORDINATOR_RUN_STATE_H_
#define ALBEF_COORDINATOR_RUN_STATE_H_

#include <string>

#include "proto/coordinator.pb.h"

namespace albef {

// "RUNNING"; the number of a state that only newer programs have a name for.
std::string StateName(v1::RunState state);

// SUCCEEDED, FAILED, PREEMPTED or STOPPED.
bool IsEnd(v1::RunState state);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_STATE_H_
