// An Operator service on loopback that answers as a test tells it to.
#ifndef ALBEF_TESTS_TOOLS_FAKE_OPERATOR_H_
#define ALBEF_TESTS_TOOLS_FAKE_OPERATOR_H_

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "proto/coordinator.grpc.pb.h"

namespace albef {

class FakeOperator final : public v1::Operator::Service {
 public:
  FakeOperator() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeOperator() override { Shutdown(); }

  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }

  // As a killed process: calls in flight break.
  void Shutdown() {
    {
      const std::lock_guard lock(mutex_);
      is_down_ = true;
      changed_.notify_all();
    }
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  // To be set before the first call.
  std::string token;  // empty: none is asked for
  v1::RunStatus status;
  std::function<void()> before_status;  // may block
  v1::ListWorkersResponse workers;
  v1::ListCheckpointsResponse checkpoints;
  std::function<grpc::Status(v1::Checkpoint*)> take_checkpoint;
  std::function<grpc::Status(const std::string& command, v1::RunStatus*)> command;

  // What WatchStatus streams; nullopt ends it.
  void Push(std::optional<v1::RunStatus> next) {
    const std::lock_guard lock(mutex_);
    pushed_.push_back(std::move(next));
    changed_.notify_all();
  }

 private:
  grpc::Status Check(grpc::ServerContext* context) const {
    const auto found = context->client_metadata().find("authorization");
    const std::string given = found == context->client_metadata().end()
                                  ? ""
                                  : std::string(found->second.data(), found->second.size());
    if (token.empty() || given == "Bearer " + token) return grpc::Status::OK;
    return {grpc::StatusCode::UNAUTHENTICATED, "wrong token"};
  }

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                         v1::RunStatus* response) override {
    if (before_status) before_status();
    *response = status;
    return Check(context);
  }
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    *response = workers;
    return Check(context);
  }
  grpc::Status ListCheckpoints(grpc::ServerContext* context, const v1::ListCheckpointsRequest*,
                               v1::ListCheckpointsResponse* response) override {
    *response = checkpoints;
    return Check(context);
  }
  grpc::Status WatchStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                           grpc::ServerWriter<v1::RunStatus>* writer) override {
    if (const grpc::Status checked = Check(context); !checked.ok()) return checked;
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !pushed_.empty() || is_down_; });
      if (pushed_.empty()) return {grpc::StatusCode::UNAVAILABLE, "going down"};
      const std::optional<v1::RunStatus> next = std::move(pushed_.front());
      pushed_.pop_front();
      lock.unlock();
      if (!next.has_value() || !writer->Write(*next)) return grpc::Status::OK;
    }
  }
  grpc::Status TakeCheckpoint(grpc::ServerContext*, const v1::TakeCheckpointRequest*,
                              v1::Checkpoint* response) override {
    return take_checkpoint(response);
  }
  grpc::Status Pause(grpc::ServerContext*, const v1::PauseRequest*,
                     v1::RunStatus* response) override {
    return command("pause", response);
  }
  grpc::Status Resume(grpc::ServerContext*, const v1::ResumeRequest*,
                      v1::RunStatus* response) override {
    return command("resume", response);
  }
  grpc::Status Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                     v1::RunStatus* response) override {
    return command("drain " + request->worker(), response);
  }
  grpc::Status Stop(grpc::ServerContext*, const v1::StopRequest*,
                    v1::RunStatus* response) override {
    return command("stop", response);
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::optional<v1::RunStatus>> pushed_;  // guarded by mutex_
  bool is_down_ = false;                             // guarded by mutex_
};

}  // namespace albef

#endif  // ALBEF_TESTS_TOOLS_FAKE_OPERATOR_H_
