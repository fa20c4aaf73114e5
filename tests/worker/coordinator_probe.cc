// In albef-coordinator's place for tests of albef-worker's embedded one: claims a term, says where
// it is, and welcomes workers. It does what RUN_DIR/script says when it starts:
//
//   "exit N"   ends with code N at once, before it claims a term
//   "end N"    tells every worker to end with code N, waits until all are gone, and exits with N
//
// Without a script it lives until a worker leaves, which ends the run as PREEMPTED, or it is
// killed. Each start appends its arguments to RUN_DIR/starts.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "common/file.h"
#include "common/parent_process.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/run_token.h"
#include "coordinator/term.h"
#include "proto/coordinator.grpc.pb.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

class Service final : public v1::WorkerSession::Service {
 public:
  Service(fs::path run_dir, int64_t term) : run_dir_(std::move(run_dir)), term_(term) {}

  grpc::Status Session(grpc::ServerContext*, Stream* stream) override {
    v1::WorkerMessage message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    {
      std::lock_guard lock(mutex_);
      streams_.insert(stream);
      v1::CoordinatorMessage welcome;
      welcome.mutable_welcome()->set_run_id("run-1");
      welcome.mutable_welcome()->set_term(term_);
      stream->Write(welcome);
      if (exit_code_.has_value()) TellEnd(stream);
    }
    while (stream->Read(&message)) {
      if (message.has_leave()) End(75, "PREEMPTED");
      std::lock_guard lock(mutex_);
      v1::CoordinatorMessage answer;
      answer.mutable_acknowledge()->set_sequence(0);
      if (message.has_heartbeat()) stream->Write(answer);
    }
    std::lock_guard lock(mutex_);
    streams_.erase(stream);
    was_told_ |= exit_code_.has_value();
    return grpc::Status::OK;
  }

  void End(int exit_code, const std::string& state) {
    std::lock_guard lock(mutex_);
    if (exit_code_.has_value()) return;
    exit_code_ = exit_code;
    state_ = state;
    WriteFileAtomic(run_dir_ / "outcome.json",
                    "{\"state\": \"" + state + "\", \"reason\": \"the probe's\", \"exit_code\": " +
                        std::to_string(exit_code) + ", \"state_digest\": \"\", \"step\": 0}\n")
        .IgnoreError();
    for (Stream* stream : streams_) TellEnd(stream);
  }

  // The exit code of a run that has ended and has told so to everybody.
  std::optional<int> ended() const {
    std::lock_guard lock(mutex_);
    return was_told_ && streams_.empty() ? exit_code_ : std::nullopt;
  }

 private:
  void TellEnd(Stream* stream) {
    v1::CoordinatorMessage message;
    v1::End& end = *message.mutable_to_trainer()->mutable_message()->mutable_end();
    end.set_exit_code(*exit_code_);
    end.set_state(state_);
    stream->Write(message);
  }

  const fs::path run_dir_;
  const int64_t term_;
  mutable std::mutex mutex_;  // guards what follows
  std::set<Stream*> streams_;
  std::optional<int> exit_code_;
  std::string state_;
  bool was_told_ = false;
};

std::string ValueOf(int argc, char** argv, std::string_view name) {
  const std::string prefix = "--" + std::string(name) + "=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, prefix.size()) == prefix) {
      return std::string(argument.substr(prefix.size()));
    }
  }
  return "";
}

int Main(int argc, char** argv) {
  if (!BindToParent(std::atoi(ValueOf(argc, argv, "parent-pid").c_str())).ok()) return 4;
  const fs::path run_dir = ValueOf(argc, argv, "run-dir");
  {
    std::ofstream starts(run_dir / "starts", std::ios::app);
    starts << ::getpid();
    for (int i = 1; i < argc; ++i) starts << ' ' << argv[i];
    starts << '\n';
  }
  std::string verb;
  int code = -1;
  std::ifstream(run_dir / "script") >> verb >> code;
  if (verb == "exit") {
    std::fprintf(stderr, "coordinator probe: refused\n");
    return code;
  }

  const std::string after = ValueOf(argc, argv, "after-term");
  const int64_t term =
      1 + (after.empty() ? HighestTerm(run_dir).value_or(0) : std::atol(after.c_str()));
  const absl::StatusOr<Term> claim = Term::Claim(run_dir, term);
  if (!claim.ok()) return 0;

  Service service(run_dir, term);
  if (verb == "end") service.End(code, "SUCCEEDED");
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || !EnsureRunToken(run_dir).ok()) return 1;
  if (!WriteCoordinatorFile(run_dir, {.run_id = "run-1",
                                      .term = term,
                                      .address = "127.0.0.1:" + std::to_string(port),
                                      .metrics_address = "127.0.0.1:1",
                                      .pid = ::getpid(),
                                      .host = "here"})
           .ok()) {
    return 1;
  }
  while (!service.ended().has_value() && claim->CheckCurrent().ok()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return service.ended().value_or(0);
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
