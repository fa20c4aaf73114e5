// albef-trainer: pretrains in one process.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/exit_code.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "worker/stop_signal.h"
#include "worker/trainer.h"

namespace albef {
namespace {

int Main(int argc, char** argv) {
  std::string config_path, run_dir, device = "cpu", resume;
  std::vector<std::string> overrides;
  CLI::App app(
      "Pretrains ALBEF from a YAML configuration. Run the same command again to go on after an "
      "interruption.\nExit codes: 0 done, 64 usage or configuration, 74 storage, 75 interrupted "
      "and "
      "checkpointed, 93 failed for good, 130 second interrupt, 1 otherwise.",
      "albef-trainer");
  app.add_option("--config", config_path, "YAML configuration")->required()->type_name("FILE");
  app.add_option("--set", overrides, "override of one key, e.g. optimizer.lr=3e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--run-dir", run_dir, "folder for checkpoints, metrics and logs")
      ->required()
      ->type_name("DIR");
  app.add_option("--device", device, "cpu or cuda")->capture_default_str();
  app.add_option(
         "--resume", resume,
         "auto: also after a failure; never: new runs only; or an official checkpoint_XX.pth "
         "or a checkpoint folder to begin with")
      ->type_name("auto|never|PATH");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  InstallStopSignals();
  if (const absl::Status status = StartLogging({.process = "trainer", .run_dir = run_dir});
      !status.ok()) {
    spdlog::error("{}", status.message());
    return static_cast<int>(ExitCode::kUsage);
  }
  // Deterministic cuBLAS needs a fixed workspace, set before the first CUDA call.
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);

  absl::StatusOr<RunConfig> config =
      LoadRunConfig(config_path, {.overrides = std::move(overrides)});
  if (!config.ok()) {
    spdlog::error("{}", config.status().message());
    return static_cast<int>(ExitCode::kUsage);
  }
  return static_cast<int>(Train({.config = *std::move(config),
                                 .run_dir = run_dir,
                                 .device = device,
                                 .resume = ParseResumeRequest(resume)}));
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
