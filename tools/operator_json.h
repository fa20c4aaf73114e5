// What albefctl prints with --json, one object each (schema: docs/albefctl.md). Members are only
// ever added; what is not known is null.
//
// Pure functions; safe to call from any thread.
#ifndef ALBEF_TOOLS_OPERATOR_JSON_H_
#define ALBEF_TOOLS_OPERATOR_JSON_H_

#include <string>

#include "proto/coordinator.pb.h"

namespace albef {

enum class JsonLayout {
  kIndented,
  kLine,  // for streams: one object, one line
};

std::string StatusJson(const v1::RunStatus& status, JsonLayout layout = JsonLayout::kIndented);
std::string WorkersJson(const v1::ListWorkersResponse& workers);
std::string CheckpointsJson(const v1::ListCheckpointsResponse& checkpoints);
std::string CheckpointJson(const v1::Checkpoint& checkpoint);

}  // namespace albef

#endif  // ALBEF_TOOLS_OPERATOR_JSON_H_
