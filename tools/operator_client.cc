#include "tools/operator_client.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/run_token.h"
#include "tools/finished_run.h"
#include "tools/operator_text.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::system_clock;  // what gRPC takes deadlines in
using std::chrono::milliseconds;

constexpr milliseconds kAttemptLimit(2000);
constexpr milliseconds kRetryInterval(200);
constexpr milliseconds kQuestionLimit(10000);
constexpr int kMaxMessageBytes = 16 << 20;

struct Endpoint {
  std::string address;
  std::string described;  // where the address comes from
};

absl::StatusOr<Endpoint> Locate(const RunLocation& location) {
  if (location.coordinator.has_value()) {
    return Endpoint{.address = *location.coordinator, .described = "--coordinator"};
  }
  const fs::path path = *location.run_dir / "coordinator.json";
  const absl::StatusOr<CoordinatorInfo> info = ReadCoordinatorFile(*location.run_dir);
  if (absl::IsNotFound(info.status())) {
    return absl::NotFoundError(fmt::format(
        "nobody to ask: {} does not exist; no run was started in this directory yet, or --run-dir "
        "is not that of the run",
        path.string()));
  }
  RETURN_IF_ERROR(info.status());
  return Endpoint{.address = info->address,
                  .described = fmt::format("{}: term {}, process {} on {}", path.string(),
                                           info->term, info->pid, info->host)};
}

absl::Status NobodyAnswers(const Endpoint& endpoint, const RunLocation& location) {
  const std::string remedy =
      location.coordinator.has_value()
          ? "check the address; RUN_DIR/coordinator.json has the present one"
          : fmt::format(
                "if workers are alive, another coordinator takes over within seconds: try "
                "again; if not, the command that started the run goes on with it. {} tells "
                "what happened",
                (*location.run_dir / "logs").string());
  return absl::UnavailableError(
      fmt::format("nobody answers at {} ({}); {}", endpoint.address, endpoint.described, remedy));
}

absl::StatusOr<std::string> ReadToken(const RunLocation& location) {
  if (location.token_file.has_value()) {
    ASSIGN_OR_RETURN(std::string token, ReadFile(*location.token_file));
    token.erase(token.find_last_not_of(" \r\n") + 1);
    return token;
  }
  if (!location.run_dir.has_value()) return std::string();
  return ReadRunToken(*location.run_dir);
}

std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // An attempt of its own, without the back-off of those before it.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

bool IsConnected(grpc::Channel& channel, Clock::time_point deadline) {
  for (;;) {
    const grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) return false;
    if (!channel.WaitForStateChange(state, deadline)) return false;
  }
}

}  // namespace

absl::StatusOr<OperatorClient> OperatorClient::Connect(const Options& options) {
  const RunLocation& location = options.location;
  const Clock::time_point deadline = Clock::now() + options.connect_limit;
  for (;;) {
    const absl::StatusOr<Endpoint> endpoint = Locate(location);
    absl::Status failure = endpoint.status();
    if (endpoint.ok()) {
      const std::shared_ptr<grpc::Channel> channel = Dial(endpoint->address);
      if (IsConnected(*channel, std::min(deadline, Clock::now() + kAttemptLimit))) {
        ASSIGN_OR_RETURN(std::string token, ReadToken(location));
        return OperatorClient(options, endpoint->address, std::move(token), channel);
      }
      failure = NobodyAnswers(*endpoint, location);
    }
    if (location.run_dir.has_value()) {
      if (const auto finished = ReadFinishedRun(*location.run_dir);
          finished.ok() && finished->has_value()) {
        return absl::FailedPreconditionError(fmt::format(
            "the run in {} has ended, {}", (*finished)->run_dir(), FormatBrief(**finished, {})));
      }
      std::error_code no_error;
      if (!fs::is_directory(*location.run_dir, no_error)) return failure;
    }
    if (Clock::now() + kRetryInterval >= deadline) return failure;
    std::this_thread::sleep_for(kRetryInterval);
  }
}

OperatorClient::OperatorClient(const Options& options, std::string address, std::string token,
                               std::shared_ptr<grpc::Channel> channel)
    : options_(options),
      address_(std::move(address)),
      token_(std::move(token)),
      stub_(v1::Operator::NewStub(std::move(channel))) {}

void OperatorClient::Prepare(grpc::ClientContext& context,
                             std::optional<Milliseconds> limit) const {
  if (limit.has_value()) context.set_deadline(Clock::now() + *limit);
  if (!token_.empty()) context.AddMetadata("authorization", AuthorizationOf(token_));
}

absl::Status OperatorClient::Explain(const grpc::Status& status) const {
  std::string message = status.error_message();
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return absl::OkStatus();
    case grpc::StatusCode::UNAUTHENTICATED:
      message = fmt::format(
          "{} does not accept {}; RUN_DIR/secrets/token has the one of its run: give --run-dir, or "
          "--token-file with a copy",
          address_, token_.empty() ? "a call without a token" : "this token");
      break;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      message = fmt::format(
          "no answer from {} in time; what was asked for may still happen: "
          "`albefctl status` tells",
          address_);
      break;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNAVAILABLE:
      return absl::UnavailableError(
          fmt::format("the connection to {} was lost before the answer ({}); what was asked for "
                      "may still happen: `albefctl status` tells",
                      address_, message));
    default:
      break;
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), message);
}

template <typename Request, typename Response>
absl::StatusOr<Response> OperatorClient::Ask(Method<Request, Response> method,
                                             const Request& request) {
  grpc::ClientContext context;
  Prepare(context, options_.call_limit.value_or(kQuestionLimit));
  Response response;
  RETURN_IF_ERROR(Explain((stub_.get()->*method)(&context, request, &response)));
  return response;
}

template <typename Request, typename Response>
absl::StatusOr<Response> OperatorClient::Wait(Method<Request, Response> method,
                                              const Request& request) {
  grpc::ClientContext context;
  Prepare(context, options_.call_limit);
  Response response;
  std::future<grpc::Status> answer = std::async(
      std::launch::async, [&] { return (stub_.get()->*method)(&context, request, &response); });
  // A host that vanishes closes no connection.
  while (answer.wait_for(options_.probe_interval) != std::future_status::ready) {
    grpc::ClientContext probe;
    Prepare(probe, options_.probe_interval);
    v1::RunStatus ignored;
    const grpc::StatusCode code = stub_->GetStatus(&probe, {}, &ignored).error_code();
    if (code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::DEADLINE_EXCEEDED) {
      context.TryCancel();
    }
  }
  RETURN_IF_ERROR(Explain(answer.get()));
  return response;
}

absl::StatusOr<v1::RunStatus> OperatorClient::GetStatus() {
  return Ask<v1::GetStatusRequest, v1::RunStatus>(&v1::Operator::Stub::GetStatus, {});
}

absl::StatusOr<v1::ListWorkersResponse> OperatorClient::ListWorkers() {
  return Ask<v1::ListWorkersRequest, v1::ListWorkersResponse>(&v1::Operator::Stub::ListWorkers, {});
}

absl::StatusOr<v1::ListCheckpointsResponse> OperatorClient::ListCheckpoints() {
  return Ask<v1::ListCheckpointsRequest, v1::ListCheckpointsResponse>(
      &v1::Operator::Stub::ListCheckpoints, {});
}

absl::StatusOr<v1::Checkpoint> OperatorClient::TakeCheckpoint() {
  return Wait<v1::TakeCheckpointRequest, v1::Checkpoint>(&v1::Operator::Stub::TakeCheckpoint, {});
}

absl::StatusOr<v1::RunStatus> OperatorClient::Pause() {
  return Wait<v1::PauseRequest, v1::RunStatus>(&v1::Operator::Stub::Pause, {});
}

absl::StatusOr<v1::RunStatus> OperatorClient::Resume() {
  return Wait<v1::ResumeRequest, v1::RunStatus>(&v1::Operator::Stub::Resume, {});
}

absl::StatusOr<v1::RunStatus> OperatorClient::Drain(const std::string& worker) {
  v1::DrainRequest request;
  request.set_worker(worker);
  return Wait<v1::DrainRequest, v1::RunStatus>(&v1::Operator::Stub::Drain, request);
}

absl::StatusOr<v1::RunStatus> OperatorClient::Stop() {
  return Wait<v1::StopRequest, v1::RunStatus>(&v1::Operator::Stub::Stop, {});
}

absl::Status OperatorClient::Watch(Milliseconds interval,
                                   const std::function<bool(const v1::RunStatus*)>& show) {
  grpc::ClientContext context;
  Prepare(context, options_.call_limit);
  const auto stream = stub_->WatchStatus(&context, {});
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<v1::RunStatus> newest;  // not shown yet; guarded by mutex
  bool has_ended = false;               // guarded by mutex
  std::thread reader([&] {
    v1::RunStatus status;
    while (stream->Read(&status)) {
      const std::lock_guard lock(mutex);
      newest = status;
      changed.notify_one();
    }
    const std::lock_guard lock(mutex);
    has_ended = true;
    changed.notify_one();
  });
  bool was_stopped = false;
  std::unique_lock lock(mutex);
  while (!was_stopped) {
    changed.wait_for(lock, interval, [&] { return newest.has_value() || has_ended; });
    const std::optional<v1::RunStatus> shown = std::exchange(newest, std::nullopt);
    if (!shown.has_value() && has_ended) break;
    lock.unlock();
    was_stopped = !show(shown.has_value() ? &*shown : nullptr);
    lock.lock();
  }
  lock.unlock();
  if (was_stopped) context.TryCancel();
  reader.join();
  const grpc::Status end = stream->Finish();
  return was_stopped ? absl::OkStatus() : Explain(end);
}

}  // namespace albef
