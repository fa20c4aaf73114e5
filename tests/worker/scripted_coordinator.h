// A coordinator that does what a test says, over real gRPC on a loopback port of its own: it writes
// the token and, as told, coordinator.json of a run directory, welcomes workers, answers
// heartbeats, keeps all that they say, and sends what the test hands it.
#ifndef ALBEF_TESTS_WORKER_SCRIPTED_COORDINATOR_H_
#define ALBEF_TESTS_WORKER_SCRIPTED_COORDINATOR_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "proto/coordinator.grpc.pb.h"

namespace albef {

class ScriptedCoordinator final : public v1::WorkerSession::Service {
 public:
  static constexpr std::chrono::seconds kLimit{30};

  struct Options {
    std::filesystem::path run_dir = {};
    int64_t term = 1;
    std::string run_id = "run-1";
    bool writes_file = true;                  // coordinator.json
    bool reads = true;                        // what comes after hello
    grpc::Status refusal = grpc::Status::OK;  // of every hello
    double heartbeat_seconds = 0;             // that it asks for; 0: does not
    std::string address = "127.0.0.1:0";
  };

  explicit ScriptedCoordinator(Options options);
  ~ScriptedCoordinator() override { Stop(); }

  const std::string& address() const { return address_; }

  // To the session that was opened last.
  void Send(v1::CoordinatorMessage message);
  void SendControl(int64_t incarnation, v1::ControlMessage message);
  void Acknowledge(int64_t sequence);
  void Start(v1::StartAction action = v1::START_ACTION_NEW, const std::string& import_path = "");
  void End(int exit_code, const std::string& state);

  // Breaks the session that was opened last.
  void Break();

  // Ends the server and all sessions.
  void Stop();

  // The next message that has the property, in order over all sessions; what comes before is
  // dropped. Fails the test, and gives an empty message, when none comes.
  using Property = std::function<bool(const v1::WorkerMessage&)>;
  v1::WorkerMessage WaitFor(const std::string& what, const Property& property);
  v1::Hello WaitForHello();
  v1::TrainerStarted WaitForTrainerStarted();
  v1::TrainerExited WaitForTrainerExited();

  int num_hellos() const;
  std::string last_authorization() const;

  grpc::Status Session(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream) override;

 private:
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

  const Options options_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<v1::WorkerMessage> messages_;
  Stream* stream_ = nullptr;  // of the session that was opened last
  grpc::ServerContext* context_ = nullptr;
  int num_hellos_ = 0;
  int64_t acknowledged_ = 0;
  std::string last_authorization_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_WORKER_SCRIPTED_COORDINATOR_H_
