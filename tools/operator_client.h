// A connection to the coordinator of a run as its operator.
#ifndef ALBEF_TOOLS_OPERATOR_CLIENT_H_
#define ALBEF_TOOLS_OPERATOR_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/coordinator.grpc.pb.h"
#include "proto/coordinator.pb.h"

namespace albef {

// How to reach a run: at least one of the first two.
struct RunLocation {
  std::optional<std::string> coordinator = {};        // HOST:PORT
  std::optional<std::filesystem::path> run_dir = {};  // has address and token in it
  std::optional<std::filesystem::path> token_file = {};
};

// Every call returns the coordinator's own code and words; UNAVAILABLE when the connection was lost
// over it, DEADLINE_EXCEEDED after `call_limit`. Thread-safe.
class OperatorClient {
 public:
  using Milliseconds = std::chrono::milliseconds;

  struct Options {
    RunLocation location = {};
    // A coordinator that is just being replaced gets so much time; the run directory is read again
    // before every attempt.
    Milliseconds connect_limit = std::chrono::seconds(5);
    // Unset: 10 s for a question, no limit for what waits for the run (a checkpoint, a boundary).
    std::optional<Milliseconds> call_limit = {};
    // How often a waiting call asks whether the coordinator is still there, and how long it may
    // take to say so.
    Milliseconds probe_interval = std::chrono::seconds(5);
  };

  // UNAVAILABLE or NOT_FOUND when nobody answers: says where was looked and what to do.
  // FAILED_PRECONDITION for a run that has ended: its files say how.
  static absl::StatusOr<OperatorClient> Connect(const Options& options);

  // HOST:PORT.
  const std::string& address() const { return address_; }

  absl::StatusOr<v1::RunStatus> GetStatus();
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints();
  absl::StatusOr<v1::Checkpoint> TakeCheckpoint();
  absl::StatusOr<v1::RunStatus> Pause();
  absl::StatusOr<v1::RunStatus> Resume();
  absl::StatusOr<v1::RunStatus> Drain(const std::string& worker);
  absl::StatusOr<v1::RunStatus> Stop();

  // Shows the status now, after every change, and every `interval` without one (a null pointer),
  // until `show` returns false or the stream ends: OK for both.
  absl::Status Watch(Milliseconds interval, const std::function<bool(const v1::RunStatus*)>& show);

 private:
  OperatorClient(const Options& options, std::string address, std::string token,
                 std::shared_ptr<grpc::Channel> channel);

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Operator::Stub::*)(grpc::ClientContext*, const Request&,
                                                      Response*);

  // A question: answered at once.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Ask(Method<Request, Response> method, const Request& request);

  // A command: answered when the run has done it.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Wait(Method<Request, Response> method, const Request& request);

  void Prepare(grpc::ClientContext& context, std::optional<Milliseconds> limit) const;
  absl::Status Explain(const grpc::Status& status) const;

  Options options_;
  std::string address_;
  std::string token_;  // empty: none
  std::unique_ptr<v1::Operator::Stub> stub_;
};

}  // namespace albef

#endif  // ALBEF_TOOLS_OPERATOR_CLIENT_H_
