// Set-up of spdlog for a process: one event, one line, facts as key=value, times in UTC.
//
//   2026-01-31T12:00:00.123Z info trainer[4711] checkpoint committed step=1200 duration_s=0.8
//
// Errors and everything else go to stderr, which leaves stdout to the answers of commands; with a
// run directory also to RUN_DIR/logs/<process>.log.
#ifndef ALBEF_COMMON_LOG_H_
#define ALBEF_COMMON_LOG_H_

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace albef {

struct LogOptions {
  std::string process = {};    // in every line and in the name of the log file: "trainer-3"
  std::string level = "info";  // debug, info, warning, error
  std::optional<std::filesystem::path> run_dir = {};  // also append to logs/<process>.log there
};

// Replaces the default logger: call once, before the first thread is started. INVALID_ARGUMENT
// for an unknown level or a process that is no file name. A log file that cannot be opened is
// reported and the process logs to stderr only; one that cannot be written (a full disk) loses
// lines, never the process.
absl::Status StartLogging(const LogOptions& options);

// A value for key=value: as it is where it is one word, else in quotes with escapes, so that a
// line stays one line whatever a file name or an error message holds.
std::string LogValue(std::string_view value);

}  // namespace albef

#endif  // ALBEF_COMMON_LOG_H_
