// albef-trainer: started by albef-worker, never by people.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <string>

#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "common/parent_process.h"
#include "coordinator/run_token.h"
#include "worker/trainer.h"

namespace albef {
namespace {

constexpr int kControlDescriptor = 3;

int Main(int argc, char** argv) {
  std::string run_dir, run_id, device = "cpu", action = "new", import_path, mesh_host = "127.0.0.1";
  int64_t parent_pid = 0, incarnation = 0, order = -1, local_rank = 0;
  bool is_supervised = false;
  CLI::App app("Trains for albef-worker, which starts it. Use albef-worker.", "albef-trainer");
  app.add_flag("--supervised", is_supervised, "the control socket is descriptor 3")->required();
  app.add_option("--parent-pid", parent_pid, "the supervisor's process")->required();
  app.add_option("--run-dir", run_dir, "folder of the run, with its config.yaml")->required();
  app.add_option("--run-id", run_id, "of the run")->required();
  app.add_option("--device", device, "cpu or cuda");
  app.add_option("--action", action, "where state comes from if nobody has any")
      ->check(CLI::IsMember({"new", "import", "continue"}));
  app.add_option("--import-path", import_path, "for --action import");
  app.add_option("--incarnation", incarnation, "of this process")->required();
  app.add_option("--order", order, "of the worker");
  app.add_option("--local-rank", local_rank, "of the worker, on its machine: chooses the GPU");
  app.add_option("--mesh-host", mesh_host, "address to listen on for other trainers");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  const std::string process = "trainer-" + std::to_string(order);
  if (const absl::Status status = BindToParent(static_cast<pid_t>(parent_pid)); !status.ok()) {
    spdlog::error("{}", status.message());
    return static_cast<int>(ExitCode::kOther);
  }
  // Only the supervisor says when to stop.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE}) {
    std::signal(signal, SIG_IGN);
  }
  // The supervisor writes what comes on stderr to the log file, what LibTorch prints included.
  absl::Status status = StartLogging({.process = process});
  if (status.ok()) status = SetFaultProcess("trainer." + std::to_string(order));
  absl::StatusOr<std::string> token;
  if (status.ok()) {
    token = ReadRunToken(run_dir);
    status = token.status();
  }
  if (!status.ok()) {
    spdlog::error("{}", status.message());
    return static_cast<int>(ExitCode::kUsage);
  }
  // Deterministic cuBLAS needs a fixed workspace, set before the first CUDA call.
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);

  TrainerOptions options{.control = FileDescriptor(kControlDescriptor),
                         .run_dir = run_dir,
                         .run_id = run_id,
                         .token = *token,
                         .device = device,
                         .local_rank = local_rank,
                         .action = action == "new"      ? StartAction::kNew
                                   : action == "import" ? StartAction::kImport
                                                        : StartAction::kContinue,
                         .import_path = import_path,
                         .incarnation = incarnation,
                         .mesh_host = mesh_host};
  return static_cast<int>(RunTrainer(std::move(options)));
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
