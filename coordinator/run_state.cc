#include "coordinator/run_state.h"

#include <string_view>

namespace albef {

std::string StateName(v1::RunState state) {
  constexpr std::string_view kPrefix = "RUN_STATE_";
  const std::string& name = v1::RunState_Name(state);
  return name.empty() ? std::to_string(state) : name.substr(kPrefix.size());
}

bool IsEnd(v1::RunState state) {
  return state == v1::RUN_STATE_SUCCEEDED || state == v1::RUN_STATE_FAILED ||
         state == v1::RUN_STATE_PREEMPTED || state == v1::RUN_STATE_STOPPED;
}

}  // namespace albef
