#include "tests/worker/scripted_coordinator.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>
#include <utility>

#include "coordinator/coordinator_file.h"
#include "coordinator/run_token.h"

namespace albef {

ScriptedCoordinator::ScriptedCoordinator(Options options) : options_(std::move(options)) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options_.address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) std::abort();
  address_ = "127.0.0.1:" + std::to_string(port);
  if (!EnsureRunToken(options_.run_dir).ok()) std::abort();
  if (options_.writes_file &&
      !WriteCoordinatorFile(options_.run_dir, {.run_id = options_.run_id,
                                               .term = options_.term,
                                               .address = address_,
                                               .metrics_address = "127.0.0.1:1",
                                               .pid = ::getpid(),
                                               .host = "here"})
           .ok()) {
    std::abort();
  }
}

void ScriptedCoordinator::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

grpc::Status ScriptedCoordinator::Session(grpc::ServerContext* context, Stream* stream) {
  v1::WorkerMessage message;
  if (!stream->Read(&message)) return grpc::Status::OK;
  {
    std::lock_guard lock(mutex_);
    EXPECT_TRUE(message.has_hello()) << "first: " << message.ShortDebugString();
    const auto entry = context->client_metadata().find("authorization");
    last_authorization_ = entry == context->client_metadata().end()
                              ? ""
                              : std::string(entry->second.data(), entry->second.size());
    ++num_hellos_;
    messages_.push_back(message);
    changed_.notify_all();
    if (!options_.refusal.ok()) return options_.refusal;
    v1::CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_run_id(options_.run_id);
    welcome.mutable_welcome()->set_term(options_.term);
    welcome.mutable_welcome()->set_heartbeat_seconds(options_.heartbeat_seconds);
    stream->Write(welcome);
    stream_ = stream;
    context_ = context;
    changed_.notify_all();
  }
  while (!options_.reads && !context->IsCancelled()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  while (stream->Read(&message)) {
    std::lock_guard lock(mutex_);
    if (message.has_heartbeat()) {
      v1::CoordinatorMessage answer;
      answer.mutable_acknowledge()->set_sequence(acknowledged_);
      answer.mutable_acknowledge()->set_heartbeat_seconds(options_.heartbeat_seconds);
      stream->Write(answer);
    }
    messages_.push_back(message);
    changed_.notify_all();
  }
  std::lock_guard lock(mutex_);
  if (stream_ == stream) {
    stream_ = nullptr;
    context_ = nullptr;
  }
  return grpc::Status::OK;
}

void ScriptedCoordinator::Send(v1::CoordinatorMessage message) {
  std::unique_lock lock(mutex_);
  ASSERT_TRUE(changed_.wait_for(lock, kLimit, [this] { return stream_ != nullptr; }));
  if (message.has_acknowledge()) acknowledged_ = message.acknowledge().sequence();
  stream_->Write(message);
}

void ScriptedCoordinator::SendControl(int64_t incarnation, v1::ControlMessage message) {
  v1::CoordinatorMessage outer;
  outer.mutable_to_trainer()->set_incarnation(incarnation);
  *outer.mutable_to_trainer()->mutable_message() = std::move(message);
  Send(std::move(outer));
}

void ScriptedCoordinator::Acknowledge(int64_t sequence) {
  v1::CoordinatorMessage message;
  message.mutable_acknowledge()->set_sequence(sequence);
  Send(std::move(message));
}

void ScriptedCoordinator::Start(v1::StartAction action, const std::string& import_path) {
  v1::CoordinatorMessage message;
  message.mutable_start_trainer()->set_run_dir(options_.run_dir.string());
  message.mutable_start_trainer()->set_device("cpu");
  message.mutable_start_trainer()->set_action(action);
  message.mutable_start_trainer()->set_import_path(import_path);
  Send(std::move(message));
}

void ScriptedCoordinator::End(int exit_code, const std::string& state) {
  v1::ControlMessage message;
  message.mutable_end()->set_exit_code(exit_code);
  message.mutable_end()->set_state(state);
  message.mutable_end()->set_reason("the test says so");
  SendControl(0, std::move(message));
}

void ScriptedCoordinator::Break() {
  std::unique_lock lock(mutex_);
  ASSERT_TRUE(changed_.wait_for(lock, kLimit, [this] { return context_ != nullptr; }));
  context_->TryCancel();
  stream_ = nullptr;
  context_ = nullptr;
}

v1::WorkerMessage ScriptedCoordinator::WaitFor(const std::string& what, const Property& property) {
  const auto deadline = std::chrono::steady_clock::now() + kLimit;
  std::unique_lock lock(mutex_);
  while (true) {
    while (!messages_.empty()) {
      v1::WorkerMessage message = std::move(messages_.front());
      messages_.pop_front();
      if (property(message)) return message;
    }
    if (changed_.wait_until(lock, deadline) == std::cv_status::timeout) {
      ADD_FAILURE() << "no " << what;
      return {};
    }
  }
}

v1::Hello ScriptedCoordinator::WaitForHello() {
  return WaitFor("hello", [](const auto& message) { return message.has_hello(); }).hello();
}

v1::TrainerStarted ScriptedCoordinator::WaitForTrainerStarted() {
  return WaitFor("trainer_started",
                 [](const auto& message) { return message.has_trainer_started(); })
      .trainer_started();
}

v1::TrainerExited ScriptedCoordinator::WaitForTrainerExited() {
  return WaitFor("trainer_exited", [](const auto& message) { return message.has_trainer_exited(); })
      .trainer_exited();
}

int ScriptedCoordinator::num_hellos() const {
  std::lock_guard lock(mutex_);
  return num_hellos_;
}

std::string ScriptedCoordinator::last_authorization() const {
  std::lock_guard lock(mutex_);
  return last_authorization_;
}

}  // namespace albef
