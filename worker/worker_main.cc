// albef-worker: takes part in a run. Started by mpirun, srun or hand; starts the coordinator where
// none is given, and its trainer when the coordinator says so.
//
// Environment:
//   ALBEF_HOST      what the run calls this machine, instead of its name: for tests with several
//                   "hosts" on one machine
//   ALBEF_EXIT_DIR  a folder where an empty file <order> says that this worker runs, which becomes
//                   <order>=<exit code> at its end, for deploy/mpirun/pretrain.sh: mpirun itself
//                   does not pass it on, and a name still finds room on a disk that is full
#include <fcntl.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/file.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "common/network_address.h"
#include "common/resources.h"
#include "common/status_macros.h"
#include "worker/launch.h"
#include "worker/supervisor.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string config_path = {};
  std::vector<std::string> overrides = {};
  std::string run_dir = {};
  std::string coordinator = {};
  std::string device = "cpu";
  std::string resume = {};
  std::string advertise = {};
  bool is_insecure = false;
};

constexpr int Code(ExitCode code) { return static_cast<int>(code); }

void AddOptions(CLI::App& app, Arguments& arguments) {
  app.add_option("--config", arguments.config_path, "YAML configuration")
      ->required()
      ->type_name("FILE");
  app.add_option("--set", arguments.overrides,
                 "override of one key, e.g. optimizer.lr=3e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--run-dir", arguments.run_dir,
                 "folder for checkpoints, metrics and logs, the same for all workers")
      ->required()
      ->type_name("DIR");
  app.add_option("--coordinator", arguments.coordinator,
                 "an albef-coordinator that runs already; without it the first worker starts one")
      ->type_name("HOST:PORT");
  app.add_option("--device", arguments.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option(
         "--resume", arguments.resume,
         "auto: also after a failure; never: new runs only; or an official checkpoint_XX.pth "
         "or a checkpoint folder to begin with")
      ->type_name("auto|never|PATH");
  app.add_flag("--insecure", arguments.is_insecure,
               "serve other hosts without TLS; only in a network where everybody is trusted");
  app.add_option("--advertise", arguments.advertise,
                 "the address or interface that others reach this worker at; without it the local "
                 "address of the route to the coordinator")
      ->type_name("HOST|INTERFACE");
}

std::string RunHostName() {
  const char* given = std::getenv("ALBEF_HOST");
  return given != nullptr && *given != '\0' ? given : HostName();
}

fs::path Sibling(const char* program) {
  return fs::read_symlink("/proc/self/exe").parent_path() / program;
}

// Whether files can be made there, found out before anything is started.
absl::Status CheckRunDirectory(const fs::path& run_dir) {
  RETURN_IF_ERROR(CreateDirectories(run_dir / "logs"));
  if (::access(run_dir.c_str(), R_OK | W_OK | X_OK) != 0) {
    return ErrnoStatus(errno, "use as --run-dir", run_dir);
  }
  return absl::OkStatus();
}

// What this process alone can know before it is told how it was started.
struct Preparation {
  int exit_code = 0;
  std::string message = {};
  RunConfig config = {};
  RunDirectoryPast past = {};
};

Preparation Prepare(const Arguments& arguments) {
  const auto refuse = [](ExitCode code, const absl::Status& status) {
    return Preparation{.exit_code = Code(code), .message = std::string(status.message())};
  };
  absl::StatusOr<RunConfig> config = LoadRunConfig(
      arguments.config_path, {.overrides = arguments.overrides, .device = arguments.device});
  if (!config.ok()) return refuse(ExitCode::kUsage, config.status());
  if (!arguments.coordinator.empty()) {
    if (const auto address = ParseServerAddress(arguments.coordinator); !address.ok()) {
      return refuse(ExitCode::kUsage,
                    absl::InvalidArgumentError(
                        fmt::format("--coordinator: {}", std::string(address.status().message()))));
    }
  }
  if (!arguments.advertise.empty()) {
    if (const auto host = ResolveAdvertised(arguments.advertise); !host.ok()) {
      return refuse(ExitCode::kUsage, host.status());
    }
  }
  if (const absl::Status status = CheckRunDirectory(arguments.run_dir); !status.ok()) {
    return refuse(ExitCode::kStorage, status);
  }
  return {.config = *std::move(config), .past = ReadRunDirectoryPast(arguments.run_dir)};
}

absl::StatusOr<Launch> FindLaunch(const Arguments& arguments, const Preparation& preparation) {
  const bool has_coordinator = !arguments.coordinator.empty();
  if (!WasStartedByMpirun()) {
    ASSIGN_OR_RETURN(Launch launch,
                     LaunchedOtherwise([](const char* name) { return std::getenv(name); },
                                       has_coordinator, preparation.past.newest_term));
    launch.exit_code = preparation.exit_code;
    return launch;
  }
  ASSIGN_OR_RETURN(const BootstrapFacts facts,
                   BootstrapWithMpi({.exit_code = preparation.exit_code,
                                     .newest_term = preparation.past.newest_term,
                                     .host = HostName()}));
  return LaunchedByMpirun(facts);
}

// mpirun binds each process to a core where there are few of them, and children inherit that.
void WarnAboutBinding() {
  cpu_set_t cpus;
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) > 1) return;
  if (::sysconf(_SC_NPROCESSORS_ONLN) <= 1) return;
  spdlog::warn("bound to a single core, which slows the trainer down: mpirun --bind-to none");
}

// Whether the trainers of this run talk over a network, as far as this worker can know.
bool SpansHosts(const Arguments& arguments, const Launch& launch) {
  if (arguments.coordinator.empty()) return launch.spans_hosts;
  const absl::StatusOr<std::string> local = LocalAddressTowards(arguments.coordinator);
  return !local.ok() || !IsLoopback(*local);
}

// Of this worker in ALBEF_EXIT_DIR; empty where nobody asks.
fs::path ExitFile(int64_t order) {
  const char* folder = std::getenv("ALBEF_EXIT_DIR");
  if (folder == nullptr || *folder == '\0') return {};
  return fs::path(folder) / std::to_string(order);
}

absl::Status CreateEmpty(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  return file.valid() ? absl::OkStatus() : ErrnoStatus(errno, "create", path);
}

// Where this fails LeaveExitCode says so.
void PromiseExitCode(int64_t order) {
  const fs::path file = ExitFile(order);
  if (!file.empty()) CreateEmpty(file).IgnoreError();
}

void LeaveExitCode(int64_t order, int exit_code) {
  const fs::path promised = ExitFile(order);
  if (promised.empty()) return;
  const fs::path file = fmt::format("{}={}", promised.string(), exit_code);
  if (::rename(promised.c_str(), file.c_str()) == 0) return;
  if (const absl::Status status = CreateEmpty(file); !status.ok()) {
    spdlog::warn("{}", status.message());
  }
}

// A coordinator that somebody else started has another working directory.
std::string ResumeFromAnywhere(const std::string& resume) {
  const bool is_path = !resume.empty() && resume != "auto" && resume != "never";
  return is_path ? fs::absolute(resume).string() : resume;
}

Supervisor::Options SupervisorOptions(const Arguments& arguments, const Launch& launch,
                                      const Preparation& preparation) {
  const RunConfig::Elastic& elastic = preparation.config.elastic;
  const auto to_ms = [](double seconds) {
    return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  };
  const std::string host = RunHostName();
  Supervisor::Options options{
      .run_dir = fs::absolute(arguments.run_dir),
      .trainer_program = Sibling("albef-trainer"),
      .host = host,
      .worker_id = fmt::format("{}-{}-{:x}", host, ::getpid(),
                               std::chrono::duration_cast<std::chrono::milliseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count()),
      .order = launch.order,
      .local_rank = launch.local_rank,
      .log_suffix =
          launch.order >= 0 ? std::to_string(launch.order) : fmt::format("{}-{}", host, ::getpid()),
      .is_first = launch.order == 0 && arguments.coordinator.empty(),
      .external_address = arguments.coordinator,
      .past = preparation.past,
      .silence_limit = to_ms(elastic.heartbeat_limit_s)};
  options.past.newest_term = launch.stale_term;
  options.run_request.set_config_yaml(ResolvedYaml(preparation.config));
  options.run_request.set_resume(ResumeFromAnywhere(arguments.resume));
  options.run_request.set_device(arguments.device);
  options.run_request.set_expected_workers(launch.expected_workers);
  if (!arguments.advertise.empty()) {
    options.advertised_host = ResolveAdvertised(arguments.advertise).value_or("");
  }
  options.watch.wait = to_ms(elastic.coordinator_wait_s);
  if (arguments.coordinator.empty()) {
    options.coordinator = {.program = Sibling("albef-coordinator"),
                           .run_dir = options.run_dir,
                           .serves_other_hosts = launch.spans_hosts,
                           .advertise = arguments.advertise};
  }
  return options;
}

int RunWorker(const Arguments& arguments, Launch& launch) {
  const Preparation preparation = Prepare(arguments);
  if (preparation.exit_code != 0) spdlog::error("{}", preparation.message);
  absl::StatusOr<Launch> found = FindLaunch(arguments, preparation);
  if (!found.ok()) {
    spdlog::error("{}", found.status().message());
    return Code(absl::IsInvalidArgument(found.status()) ? ExitCode::kUsage : ExitCode::kOther);
  }
  launch = *std::move(found);
  if (launch.exit_code != 0) {
    if (preparation.exit_code == 0) spdlog::error("{}", launch.reason);
    return launch.exit_code;
  }
  if (!arguments.is_insecure && SpansHosts(arguments, launch)) {
    spdlog::error(
        "workers on several hosts talk over the network, and this version has no TLS yet: give "
        "--insecure if everybody in that network is trusted");
    return Code(ExitCode::kUsage);
  }

  Supervisor::Options options = SupervisorOptions(arguments, launch, preparation);
  const std::string name = "worker-" + options.log_suffix;
  if (const absl::Status status =
          StartLogging({.process = name, .run_dir = fs::path(arguments.run_dir)});
      !status.ok()) {
    spdlog::error("{}", status.message());
    return Code(ExitCode::kUsage);
  }
  if (const absl::Status status = SetFaultProcess(fmt::format("supervisor.{}", launch.order));
      !status.ok()) {
    spdlog::error("{}", status.message());
    return Code(ExitCode::kUsage);
  }
  if (WasStartedByMpirun()) {
    WarnAboutBinding();
    // A killed mpirun or daemon of its takes nothing with it.
    ::prctl(PR_SET_PDEATHSIG, SIGHUP);
  }
  PromiseExitCode(launch.order);
  spdlog::info("worker id={} order={} of={} run_dir={}", options.worker_id, launch.order,
               launch.expected_workers, LogValue(options.run_dir.string()));
  return Supervisor(std::move(options)).Run();
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app(
      "Takes part in a pretraining run. Without --coordinator the first worker (or the only one) "
      "also starts the coordinator. Run the same command again to go on after an interruption.\n"
      "Exit codes: 0 done, 64 usage or configuration, 74 storage, 75 interrupted and checkpointed, "
      "93 failed for good, 130 second interrupt, 1 otherwise.",
      "albef-worker");
  AddOptions(app, arguments);
  int exit_code = 0;
  Launch launch;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) == 0) return 0;
    exit_code = Code(ExitCode::kUsage);
  }
  // Before MPI, whose threads inherit it.
  Supervisor::BlockSignals();
  if (const absl::Status status = StartLogging({.process = "worker"}); !status.ok()) return 1;
  if (exit_code == 0) exit_code = RunWorker(arguments, launch);
  LeaveExitCode(launch.order, exit_code);
  // At once means without waiting for whoever still holds a lock.
  if (exit_code == Code(ExitCode::kInterrupted)) ::_exit(exit_code);
  return exit_code;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
