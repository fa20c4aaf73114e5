// In albef-trainer's place for tests of albef-worker: speaks the trainer's side of the control
// protocol, trains nothing. Prints its command line; every Run is answered by a report of a step.
//
// A test tells it what to do by RaiseFlags:
//   1000 + n  begin a batch of iteration n, print "last words" and exit with code n
//   2000 + n  send n reports of steps
//   3000      never react to anything again, End neither
//   4000      report a broken communicator
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/parent_process.h"
#include "proto/control.pb.h"
#include "worker/control_socket.h"

namespace albef {
namespace {

class Probe {
 public:
  int Run() {
    v1::TrainerMessage parked;
    parked.mutable_parked()->set_mesh_address("127.0.0.1:1");
    Send(parked);
    while (true) {
      v1::TrainerMessage activity;
      activity.mutable_activity()->set_generation(generation_);
      Send(activity);
      v1::ControlMessage message;
      const auto received = socket_.Receive(message, std::chrono::milliseconds(100));
      if (!received.ok() || *received == ControlSocket::Received::kEnd) return 1;
      if (*received == ControlSocket::Received::kNothing) continue;
      if (message.has_end()) return message.end().exit_code();
      Obey(message);
    }
  }

 private:
  void Send(const v1::TrainerMessage& message) { socket_.Send(message).IgnoreError(); }

  void Obey(const v1::ControlMessage& message) {
    v1::TrainerMessage answer;
    if (message.has_prepare()) {
      generation_ = message.prepare().generation();
      answer.mutable_parked()->set_generation(generation_);
      Send(answer);
    } else if (message.has_assign()) {
      answer.mutable_synced()->set_generation(generation_);
      answer.mutable_synced()->set_digest("0123456789abcdef");
      Send(answer);
    } else if (message.has_run()) {
      ReportStep();
    } else if (message.has_raise_flags()) {
      Obey(message.raise_flags().flags());
    }
  }

  void Obey(uint32_t flags) {
    const uint32_t argument = flags % 1000;
    if (flags / 1000 == 1) {
      v1::TrainerMessage message;
      message.mutable_batch_begun()->set_iteration(argument);
      Send(message);
      std::printf("last words\n");
      std::exit(static_cast<int>(argument));
    }
    if (flags / 1000 == 2) {
      for (uint32_t i = 0; i < argument; ++i) ReportStep();
    }
    if (flags / 1000 == 3) {
      while (true) ::pause();
    }
    if (flags / 1000 == 4) {
      v1::TrainerMessage message;
      message.mutable_communication_failed()->set_generation(generation_);
      Send(message);
    }
  }

  void ReportStep() {
    v1::TrainerMessage message;
    message.mutable_report()->mutable_step()->set_step(++step_);
    Send(message);
  }

  ControlSocket socket_{FileDescriptor(3), "supervisor"};
  int64_t generation_ = 0;
  int64_t step_ = 0;
};

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  std::string line = "arguments:";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    constexpr std::string_view kParent = "--parent-pid=";
    if (argument.substr(0, kParent.size()) == kParent &&
        !albef::BindToParent(std::atoi(argument.c_str() + kParent.size())).ok()) {
      return 4;
    }
    line += " " + argument;
  }
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
  return albef::Probe().Run();
}
