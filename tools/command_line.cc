#include "tools/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace albef {
namespace {

// The command that was given so far: `albef data` of `albef data frobnicate`.
const CLI::App& Innermost(const CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app : Innermost(*chosen.front());
}

}  // namespace

ExitCode ReportParseError(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& innermost = Innermost(app);
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  const std::vector<const CLI::App*> commands = innermost.get_subcommands(
      [](const CLI::App* command) { return !command->get_name().empty(); });
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError) &&
      !unknown.empty() && !commands.empty()) {
    std::vector<std::string> names;
    for (const CLI::App* command : commands) names.push_back(command->get_name());
    fmt::print(stderr,
               "{}: unknown {} \"{}\"; commands: {}\nRun with --help for more information.\n",
               app.get_name(), unknown[0].starts_with('-') ? "option" : "command", unknown[0],
               fmt::join(names, ", "));
    return ExitCode::kUsage;
  }
  return app.exit(error) == 0 ? ExitCode::kDone : ExitCode::kUsage;
}

ExitCode FinishOutput(ExitCode code, const char* program) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int error = errno;
  fmt::print(stderr, "{}: the output cannot be written: {}\n", program, std::strerror(error));
  return code == ExitCode::kDone ? ExitCode::kStorage : code;
}

}  // namespace albef
