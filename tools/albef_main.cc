// albef: offline work that needs no running training.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "common/exit_code.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace albef {

ExitCode Report(const absl::Status& status) {
  if (status.ok()) return ExitCode::kDone;
  fmt::print(stderr, "albef: {}\n", std::string(status.message()));
  return ExitCodeFor(status);
}

namespace {

ExitCode Main(int argc, char** argv) {
  CLI::App app("Offline work around ALBEF pretraining: data and checkpoints.", "albef");
  app.require_subcommand(1);
  Command chosen;
  CLI::App* data = app.add_subcommand("data", "Make, check or index a dataset");
  data->require_subcommand(1);
  AddDataSynth(*data, chosen);
  AddDataCheck(*data, chosen);
  AddDataIndex(*data, chosen);
#ifdef ALBEF_WITH_TORCH
  AddConvert(app, chosen);
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return FinishOutput(ReportParseError(app, error), "albef");
  }
  return FinishOutput(chosen(), "albef");
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  try {
    return static_cast<int>(albef::Main(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "albef: {}\n", error.what());
    return static_cast<int>(albef::ExitCode::kOther);
  }
}
