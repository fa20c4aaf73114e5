// What albefctl shows to people: a run's status, workers and checkpoints as aligned text.
//
// Pure functions; safe to call from any thread. Everything that comes over the network is printed
// without control characters, so that no reason can play with the reader's terminal.
#ifndef ALBEF_TOOLS_OPERATOR_TEXT_H_
#define ALBEF_TOOLS_OPERATOR_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "proto/coordinator.pb.h"

namespace albef {

struct TextOptions {
  bool use_color = false;                                // of states, nothing else
  size_t max_rows = std::numeric_limits<size_t>::max();  // of a table; says how many more there are
};

// "12 s", "3 min 20 s", "2 h 05 min", "4 d 06 h"; "?" for what is no duration.
std::string FormatAge(double seconds);

// "512 B", "3.4 MB", "1.27 GB": powers of 1000, as disks are sold.
std::string FormatSize(int64_t bytes);

// A paragraph of "name  value" lines. `source` says where it comes from: an address, or the files.
std::string FormatStatus(const v1::RunStatus& status, std::string_view source,
                         double now_unix_seconds, const TextOptions& options);

// "PAUSED at step 120 of 3000: paused by the operator".
std::string FormatBrief(const v1::RunStatus& status, const TextOptions& options);

// A line of `watch` where it cannot redraw, without the time.
std::string FormatNews(const v1::RunStatus& status, const TextOptions& options);

std::string FormatWorkers(const v1::ListWorkersResponse& workers, const TextOptions& options);

std::string FormatCheckpoints(const v1::ListCheckpointsResponse& checkpoints,
                              double now_unix_seconds, const TextOptions& options);

}  // namespace albef

#endif  // ALBEF_TOOLS_OPERATOR_TEXT_H_
