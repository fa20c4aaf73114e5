// The commands of albefctl.
#ifndef ALBEF_TOOLS_ALBEFCTL_H_
#define ALBEF_TOOLS_ALBEFCTL_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "tools/operator_client.h"

namespace albef {

enum class CtlCommand {
  kStatus,
  kWatch,
  kWorkers,
  kCheckpoints,
  kCheckpoint,
  kPause,
  kResume,
  kDrain,
  kStop,
};

struct CtlOptions {
  CtlCommand command = CtlCommand::kStatus;
  std::string worker = {};  // kDrain; empty: the whole run
  RunLocation location = {};
  bool json = false;
  std::optional<std::chrono::milliseconds> timeout =
      {};  // of everything; unset: see docs/albefctl.md
};

// Where answers go.
struct CtlOutput {
  std::function<void(std::string_view)> out = {};
  std::function<void(std::string_view)> err = {};
  bool is_terminal = false;  // `out` can be redrawn
  bool use_color = false;
  std::function<size_t()> num_rows = {};  // of the terminal
  std::function<double()> unix_seconds = {};
  std::function<std::string()> time_of_day = {};  // "14:02:11"

  static CtlOutput ForStandardStreams();
};

// The process's exit code: 0, 1 when nobody answers or the coordinator refuses; of the run, where
// `watch` saw its end.
int RunCtl(const CtlOptions& options, const CtlOutput& output);

// RunCtl's part that follows the run to its end.
int RunCtlWatch(const CtlOptions& options, const CtlOutput& output);

}  // namespace albef

#endif  // ALBEF_TOOLS_ALBEFCTL_H_
