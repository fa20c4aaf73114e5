// What the operator's programs share where they meet a shell: arguments that are refused, and
// whether what was printed has arrived.
//
// Both are for the one thread of a program's main.
#ifndef ALBEF_TOOLS_COMMAND_LINE_H_
#define ALBEF_TOOLS_COMMAND_LINE_H_

#include <CLI/CLI.hpp>

#include "common/exit_code.h"

namespace albef {

// Prints the help that was asked for on stdout, or on stderr what is wrong with the command line of
// `app`; CLI11 alone would say of an unknown command that one is required. kDone after help, else
// kUsage.
ExitCode ReportParseError(const CLI::App& app, const CLI::ParseError& error);

// How a program ends that would end with `code`: kStorage, said on stderr, where not all of its
// output could be written, for example to a file on a full disk.
ExitCode FinishOutput(ExitCode code, const char* program);

}  // namespace albef

#endif  // ALBEF_TOOLS_COMMAND_LINE_H_
