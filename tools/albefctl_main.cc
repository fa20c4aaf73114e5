// albefctl: shows and steers a run.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include "common/exit_code.h"
#include "common/network_address.h"
#include "tools/albefctl.h"
#include "tools/command_line.h"

namespace albef {
namespace {

// CLI11's way: empty for a good value.
std::string CheckAddress(const std::string& text) {
  const auto address = ParseServerAddress(text);
  return address.ok() ? std::string() : std::string(address.status().message());
}

ExitCode Main(int argc, char** argv) {
  CLI::App app("Shows and steers a pretraining run.", "albefctl");
  app.footer(
      "Exit codes: 0; 1 nobody answers, or the coordinator refuses; 64 usage; 74 the output cannot "
      "be written; watch: that of the run.");
  app.require_subcommand(1);
  app.fallthrough();  // options may follow the command
  CtlOptions options;
  std::string run_dir;
  std::string coordinator;
  std::string token_file;
  double timeout_s = 0;
  app.add_option("--run-dir", run_dir, "Directory of the run: says where its coordinator is");
  app.add_option("--coordinator", coordinator, "HOST:PORT, where the directory is out of reach")
      ->check(CheckAddress);
  app.add_option("--token-file", token_file, "A copy of RUN_DIR/secrets/token")
      ->check(CLI::ExistingFile);
  app.add_flag("--json", options.json, "Print JSON (docs/albefctl.md)");
  app.add_option("--timeout", timeout_s,
                 "Seconds to reach the coordinator, and again to wait for the answer (default: 5, "
                 "and as long as it takes)")
      ->check(CLI::Range(0.001, 1e6));
  const std::pair<CtlCommand, std::pair<const char*, const char*>> commands[] = {
      {CtlCommand::kStatus, {"status", "Where the run stands, and why"}},
      {CtlCommand::kWatch, {"watch", "Follow it until it ends; exits with its exit code"}},
      {CtlCommand::kWorkers, {"workers", "Who takes part"}},
      {CtlCommand::kCheckpoints, {"checkpoints", "What is committed"}},
      {CtlCommand::kCheckpoint,
       {"checkpoint", "Take one now; prints its path when it is committed"}},
      {CtlCommand::kPause, {"pause", "Hold the run after the present step"}},
      {CtlCommand::kResume, {"resume", "Go on"}},
      {CtlCommand::kDrain,
       {"drain", "Let a worker leave; without a name: checkpoint and end as PREEMPTED"}},
      {CtlCommand::kStop, {"stop", "Checkpoint and end as STOPPED"}},
  };
  for (const auto& [command, words] : commands) {
    CLI::App* added = app.add_subcommand(words.first, words.second);
    added->callback([&options, command = command] { options.command = command; });
    if (command == CtlCommand::kDrain) {
      added->add_option("WORKER", options.worker, "Id, rank or host of the worker");
    }
  }
  try {
    app.parse(argc, argv);
    if (run_dir.empty() && coordinator.empty()) {
      throw CLI::RequiredError("which run? --run-dir DIR (or --coordinator HOST:PORT)");
    }
  } catch (const CLI::ParseError& error) {
    return FinishOutput(ReportParseError(app, error), "albefctl");
  }
  if (!run_dir.empty()) options.location.run_dir = run_dir;
  if (!coordinator.empty()) options.location.coordinator = coordinator;
  if (!token_file.empty()) options.location.token_file = token_file;
  if (timeout_s > 0) {
    options.timeout = std::chrono::milliseconds(std::llround(std::ceil(timeout_s * 1000)));
  }
  const int code = RunCtl(options, CtlOutput::ForStandardStreams());
  return FinishOutput(static_cast<ExitCode>(code), "albefctl");
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  try {
    return static_cast<int>(albef::Main(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "albefctl: {}\n", error.what());
    return static_cast<int>(albef::ExitCode::kOther);
  }
}
