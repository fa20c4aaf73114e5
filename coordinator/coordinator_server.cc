#include "coordinator/coordinator_server.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "common/exit_code.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "common/network_address.h"
#include "common/resources.h"
#include "common/status_macros.h"
#include "coordinator/call_credentials.h"
#include "coordinator/metrics_server.h"
#include "coordinator/operator_service.h"
#include "coordinator/run_directory.h"
#include "coordinator/run_state.h"
#include "coordinator/run_token.h"
#include "coordinator/session_service.h"
#include "coordinator/term.h"

namespace albef {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;

// FAILED_PRECONDITION naming a coordinator of this run that answers.
absl::Status CheckNoneAnswers(const std::filesystem::path& run_dir, const std::string& token) {
  const absl::StatusOr<CoordinatorInfo> info = ReadCoordinatorFile(run_dir);
  if (!info.ok()) return absl::OkStatus();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  context.AddMetadata("authorization", AuthorizationOf(token));
  const auto stub =
      v1::Operator::NewStub(grpc::CreateChannel(info->address, grpc::InsecureChannelCredentials()));
  v1::RunStatus status;
  if (!stub->GetStatus(&context, {}, &status).ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{}: this run has a coordinator already, at {} (pid {} on {}, state {}); let the workers "
      "join that one, or stop it first",
      run_dir.string(), info->address, info->pid, info->host, StateName(status.state())));
}

// Whether this process got the directory for itself. One that takes over does without: a process
// that was stopped keeps its lock.
absl::StatusOr<std::optional<RunDirectoryLock>> HoldDirectory(const std::filesystem::path& run_dir,
                                                              const std::string& token,
                                                              bool takes_over) {
  if (!takes_over) RETURN_IF_ERROR(CheckNoneAnswers(run_dir, token));
  absl::StatusOr<RunDirectoryLock> lock = RunDirectoryLock::Acquire(run_dir);
  if (lock.ok()) return *std::move(lock);
  if (!takes_over) return lock.status();
  spdlog::warn("taking over without the lock of the run directory reason={}",
               LogValue(std::string(lock.status().message())));
  return std::nullopt;
}

absl::StatusOr<Term> ClaimTerm(const CoordinatorServer::Options& options) {
  if (options.after_term.has_value()) return Term::Claim(options.run_dir, *options.after_term + 1);
  ASSIGN_OR_RETURN(const int64_t highest, HighestTerm(options.run_dir));
  absl::StatusOr<Term> term = Term::Claim(options.run_dir, highest + 1);
  if (!absl::IsAlreadyExists(term.status())) return term;
  return absl::FailedPreconditionError(fmt::format(
      "{}: another coordinator has started at the same time", options.run_dir.string()));
}

absl::StatusOr<HostPort> ParseListen(const std::string& flag, const std::string& text,
                                     bool is_insecure_allowed) {
  const absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (!address.ok()) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", flag, address.status().message()));
  }
  if (IsLoopback(address->host) || is_insecure_allowed) return address;
  return absl::InvalidArgumentError(fmt::format(
      "{} {}: others on the network could read the run's token there, because connections are not "
      "encrypted; listen on 127.0.0.1, or pass --insecure if the network is trusted",
      flag, ToString(*address)));
}

// What others dial: as advertised, else where it listens. On all addresses that is one of this
// machine's which others can reach without knowing its name.
absl::StatusOr<std::string> DialledHost(const std::string& advertise, const HostPort& listen) {
  if (!advertise.empty()) return ResolveAdvertised(advertise);
  if (listen.host == "0.0.0.0" || listen.host == "::") {
    return AddressForOthers().value_or(HostName());
  }
  return listen.host;
}

}  // namespace

struct CoordinatorServer::State {
  Options options;
  std::optional<RunDirectoryLock> lock;
  std::optional<Term> term;
  CoordinatorInfo info;
  std::unique_ptr<RunDriver> driver;
  std::unique_ptr<SessionService> sessions;
  std::unique_ptr<OperatorService> operators;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<MetricsServer> metrics;

  std::mutex mutex;
  std::condition_variable wake;
  bool is_ending = false;  // guarded by mutex
  std::thread term_watch;

  absl::Status Start();
  absl::Status Serve(const std::string& token, const HostPort& listen);
  absl::Status ServeMetrics(const HostPort& listen);
  void WatchTerm();
};

CoordinatorServer::CoordinatorServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(Options options) {
  std::unique_ptr<CoordinatorServer> server(new CoordinatorServer(std::make_unique<State>()));
  server->state_->options = std::move(options);
  RETURN_IF_ERROR(server->state_->Start());
  return server;
}

absl::Status CoordinatorServer::State::Start() {
  ASSIGN_OR_RETURN(const HostPort listen,
                   ParseListen("--listen", options.listen, options.is_insecure_allowed));
  ASSIGN_OR_RETURN(
      const HostPort metrics_listen,
      ParseListen("--metrics-listen", options.metrics_listen, options.is_insecure_allowed));
  ASSIGN_OR_RETURN(const std::string token, EnsureRunToken(options.run_dir));
  // A term that somebody else has ends a take-over before it does anything else.
  const bool takes_over = options.after_term.has_value();
  if (takes_over) {
    ASSIGN_OR_RETURN(term, ClaimTerm(options));
  }
  ASSIGN_OR_RETURN(lock, HoldDirectory(options.run_dir, token, takes_over));
  if (!takes_over) {
    ASSIGN_OR_RETURN(term, ClaimTerm(options));
  }

  using Begin = RunDriver::Start;
  RunDriver::Options driver_options{.run_dir = options.run_dir, .term = term};
  driver_options.start = takes_over        ? Begin::kTakeOver
                         : options.goes_on ? Begin::kGoOn
                                           : Begin::kNewAttempt;
  driver_options.farewell = options.farewell;
  driver_options.progress = options.progress;
  driver_options.on_finished = options.on_finished;
  driver_options.on_stale = options.on_stale;
  driver_options.can_be_taken_over = options.is_embedded && !IsLoopback(listen.host);
  ASSIGN_OR_RETURN(driver, RunDriver::Create(std::move(driver_options)));
  RETURN_IF_ERROR(Serve(token, listen));
  RETURN_IF_ERROR(ServeMetrics(metrics_listen));
  info.run_id = driver->run_id();
  info.term = term->number();
  info.pid = ::getpid();
  info.host = HostName();
  RETURN_IF_ERROR(term->CheckCurrent());
  RETURN_IF_ERROR(WriteCoordinatorFile(options.run_dir, info));
  term_watch = std::thread([this] { WatchTerm(); });
  spdlog::info("coordinator serves run_id={} term={} address={} metrics=http://{}/metrics",
               info.run_id, info.term, info.address, info.metrics_address);
  return absl::OkStatus();
}

absl::Status CoordinatorServer::State::Serve(const std::string& token, const HostPort& listen) {
  sessions = std::make_unique<SessionService>(driver.get(), token);
  operators = std::make_unique<OperatorService>(driver.get(), token);
  static std::once_flag plugins;
  std::call_once(plugins, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
  constexpr int kPingMs = 5000, kMinPeerPingMs = 1000;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(ToString(listen), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(sessions.get());
  builder.RegisterService(operators.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPeerPingMs);
  server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(fmt::format(
        "--listen {}: cannot listen there; the address is in use or not of this machine",
        ToString(listen)));
  }
  ASSIGN_OR_RETURN(const std::string host, DialledHost(options.advertise, listen));
  info.address = ToString({.host = host, .port = port});
  return absl::OkStatus();
}

absl::Status CoordinatorServer::State::ServeMetrics(const HostPort& listen) {
  MetricsServer::Options metrics_options{.host = listen.host, .port = listen.port};
  metrics_options.get_metrics = [this](std::function<void(RunMetrics)> answer) {
    driver->GetMetrics(std::move(answer));
  };
  ASSIGN_OR_RETURN(metrics, MetricsServer::Start(std::move(metrics_options)));
  ASSIGN_OR_RETURN(const std::string host, DialledHost(options.advertise, listen));
  const bool is_local = IsLoopback(listen.host);
  info.metrics_address = ToString({.host = is_local ? listen.host : host, .port = metrics->port()});
  return absl::OkStatus();
}

void CoordinatorServer::State::WatchTerm() {
  std::unique_lock guard(mutex);
  auto pulse_due = std::chrono::steady_clock::now();
  bool has_warned = false;
  while (!wake.wait_for(guard, options.term_check_interval, [this] { return is_ending; })) {
    guard.unlock();
    const absl::Status status = term->CheckCurrent();
    if (absl::IsFailedPrecondition(status)) return driver->EndStale(status);
    if (std::chrono::steady_clock::now() >= pulse_due) {
      pulse_due = std::chrono::steady_clock::now() + kPulseInterval;
      const absl::Status written = WritePulse(options.run_dir, driver->pulse());
      if (!written.ok() && !std::exchange(has_warned, true)) {
        spdlog::warn("workers that cannot reach this coordinator may replace it reason={}",
                     LogValue(std::string(written.message())));
      }
    }
    guard.lock();
  }
}

CoordinatorServer::~CoordinatorServer() {
  State& state = *state_;
  {
    const std::lock_guard guard(state.mutex);
    state.is_ending = true;
  }
  state.wake.notify_one();
  if (state.term_watch.joinable()) state.term_watch.join();
  state.metrics.reset();
  if (state.driver != nullptr) state.driver->EndSessions();
  // Calls that still wait are cancelled after the deadline.
  if (state.server != nullptr) {
    state.server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  }
  state.server.reset();
  state.driver.reset();
}

const CoordinatorInfo& CoordinatorServer::info() const { return state_->info; }

RunDriver& CoordinatorServer::driver() { return *state_->driver; }

void CoordinatorServer::Drain(const std::string& reason) {
  state_->driver->Command(RunCommand::kDrainRun, reason,
                          [this](const absl::StatusOr<v1::RunStatus>& status) {
                            if (status.ok() || state_->driver->HasBegun()) return;
                            if (state_->options.on_finished) {
                              state_->options.on_finished(static_cast<int>(ExitCode::kPreempted));
                            }
                          });
}

}  // namespace albef
