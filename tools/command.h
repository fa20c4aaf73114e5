// Subcommands of `albef`. Each has a file of its own that adds it to the command line;
// albef_main.cc lists them.
#ifndef ALBEF_TOOLS_COMMAND_H_
#define ALBEF_TOOLS_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "absl/status/status.h"
#include "common/exit_code.h"

namespace albef {

// What the command line asks for; runs after parsing and prints its own errors.
using Command = std::function<ExitCode()>;

// Prints a status that is not OK as "albef: …" on stderr, and says how the process ends for it.
ExitCode Report(const absl::Status& status);

// Each adds one subcommand to `parent`; parsing a command line that names it sets `chosen`, which
// must live as long as the application.
void AddDataSynth(CLI::App& parent, Command& chosen);
void AddDataCheck(CLI::App& parent, Command& chosen);
void AddDataIndex(CLI::App& parent, Command& chosen);
void AddConvert(CLI::App& parent, Command& chosen);  // in builds with LibTorch

}  // namespace albef

#endif  // ALBEF_TOOLS_COMMAND_H_
