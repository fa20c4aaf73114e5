// albef-coordinator: the control plane of one run.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/lock_checks.h"
#include "common/log.h"
#include "common/parent_process.h"
#include "coordinator/coordinator_server.h"

namespace albef {
namespace {

// The exit code, once somebody knows it.
class End {
 public:
  void Set(int exit_code) {
    {
      const std::lock_guard lock(mutex_);
      if (!exit_code_.has_value()) exit_code_ = exit_code;
    }
    wake_.notify_all();
  }

  int Wait() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return exit_code_.has_value(); });
    return *exit_code_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<int> exit_code_;  // guarded by mutex_
};

// INT, TERM and USR2 as a thread sees them: every thread that is started later has them blocked.
sigset_t BlockStopSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

// The first signal drains the run; a second INT ends the process at once.
void HandleSignals(const sigset_t& signals, CoordinatorServer& server) {
  bool is_draining = false;
  while (true) {
    int signal = 0;
    if (::sigwait(&signals, &signal) != 0) continue;
    if (is_draining && signal == SIGINT) ::_exit(static_cast<int>(ExitCode::kInterrupted));
    if (is_draining) continue;
    is_draining = true;
    const char* name = signal == SIGINT ? "SIGINT" : signal == SIGTERM ? "SIGTERM" : "SIGUSR2";
    spdlog::info("draining the run reason={}", name);
    server.Drain(name);
  }
}

int Main(int argc, char** argv) {
  CoordinatorServer::Options options;
  std::string run_dir;
  pid_t parent_pid = 0;
  int64_t after_term = -1;
  bool shows_progress = false;
  CLI::App app(
      "Coordinates the workers of one run: who takes part, its checkpoints, its records. Workers "
      "start it themselves unless they are given --coordinator.\nExit codes: as the run's: 0 done, "
      "64 usage, 74 storage, 75 preempted, 93 failed for good, 130 second interrupt, 1 otherwise.",
      "albef-coordinator");
  app.add_option("--run-dir", run_dir, "folder for checkpoints, metrics and logs")
      ->required()
      ->type_name("DIR");
  app.add_option("--listen", options.listen, "for workers and albefctl; port 0 is any free one")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--metrics-listen", options.metrics_listen, "for Prometheus (/metrics)")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--advertise", options.advertise,
                 "what workers dial, where it is not the address of --listen")
      ->type_name("HOST|INTERFACE");
  app.add_flag("--insecure", options.is_insecure_allowed,
               "listen on other addresses than loopback without encryption");
  app.add_option("--after-term", after_term,
                 "take over from the coordinator of term N, if nobody else has")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--parent-pid", parent_pid, "end with this parent process")->type_name("PID");
  app.add_flag("--progress", shows_progress, "show steps on the terminal");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  if (parent_pid != 0) {
    if (const absl::Status status = BindToParent(parent_pid); !status.ok()) {
      spdlog::error("{}", status.message());
      return static_cast<int>(ExitCode::kOther);
    }
  }
  const sigset_t signals = BlockStopSignals();
  absl::Status status = StartLogging({.process = "coordinator", .run_dir = run_dir});
  if (status.ok()) status = SetFaultProcess("coordinator");
  if (!status.ok()) {
    spdlog::error("{}", status.message());
    return static_cast<int>(ExitCode::kUsage);
  }

  End end;
  options.run_dir = run_dir;
  if (after_term >= 0) options.after_term = after_term;
  // A child of a worker that starts anew begins anew; one that was started by hand may come back to
  // workers that went on without it.
  options.goes_on = parent_pid == 0;
  options.is_embedded = parent_pid != 0;
  if (shows_progress) options.progress = ProgressPrinter::Options::ForDescriptor(STDERR_FILENO);
  options.on_finished = [&end](int exit_code) { end.Set(exit_code); };
  options.on_stale = [](const absl::Status& reason) {
    spdlog::warn("this coordinator is not the run's any more reason={}",
                 LogValue(std::string(reason.message())));
    ::_exit(0);  // whatever else it would do is the other's business
  };
  absl::StatusOr<std::unique_ptr<CoordinatorServer>> server =
      CoordinatorServer::Start(std::move(options));
  if (absl::IsAlreadyExists(server.status())) {
    spdlog::info("another coordinator has taken over reason={}",
                 LogValue(std::string(server.status().message())));
    return static_cast<int>(ExitCode::kDone);
  }
  if (!server.ok()) {
    spdlog::error("{}", server.status().message());
    return static_cast<int>(ExitCodeFor(server.status()));
  }
  std::thread([&signals, &server] { HandleSignals(signals, **server); }).detach();
  const int exit_code = end.Wait();
  FaultPoint("shutdown");
  spdlog::info("coordinator ends exit_code={}", exit_code);
  server->reset();
  // The thread that waits for signals ends with the process.
  spdlog::default_logger()->flush();
  ::_exit(exit_code);
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  albef::TurnOffLockChecks();
  return albef::Main(argc, argv);
}
