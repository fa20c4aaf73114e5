// A trainer as its supervisor has it: the process, the control socket to it, and what it prints
// (into RUN_DIR/logs/trainer-<order>.log and on our standard error).
//
// For one thread, which must live as long as the process (child_process.h).
#ifndef ALBEF_WORKER_TRAINER_PROCESS_H_
#define ALBEF_WORKER_TRAINER_PROCESS_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/coordinator.pb.h"
#include "worker/child_process.h"
#include "worker/control_socket.h"
#include "worker/output_tap.h"

namespace albef {

class TrainerProcess {
 public:
  struct Options {
    std::filesystem::path program = {};
    std::filesystem::path run_dir = {};
    std::string run_id = {};
    std::string device = "cpu";
    v1::StartAction action = v1::START_ACTION_CONTINUE;
    std::string import_path = {};
    int64_t order = 0;
    int64_t local_rank = 0;
    std::string mesh_host = {};
    std::string log_name = {};  // of the file in RUN_DIR/logs
  };

  // Its incarnation is larger than those of all trainers that this machine has started before.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const Options& options);

  int64_t incarnation() const { return incarnation_; }
  ControlSocket& control() { return control_; }
  ChildProcess& process() { return *process_; }

  // What it printed last; to be asked once it has ended.
  std::string LastLines() { return output_->LastLines(std::chrono::milliseconds(200)); }

 private:
  TrainerProcess(int64_t incarnation, std::unique_ptr<OutputTap> output,
                 std::unique_ptr<ChildProcess> process, FileDescriptor control)
      : incarnation_(incarnation),
        output_(std::move(output)),
        process_(std::move(process)),
        control_(std::move(control), "trainer " + std::to_string(process_->pid())) {}

  const int64_t incarnation_;
  const std::unique_ptr<OutputTap> output_;  // outlives the process, whose last words it takes
  const std::unique_ptr<ChildProcess> process_;
  ControlSocket control_;
};

// The command line of a trainer (without the program's name).
std::vector<std::string> TrainerArguments(const TrainerProcess::Options& options,
                                          int64_t incarnation, int64_t parent_pid);

// A trainer's threads and what each waits for in the kernel, for the log, before a stuck one is
// killed: "albef-trainer R; gate S futex_wait_queue". Best effort, never waits.
std::string DescribeThreads(pid_t pid);

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINER_PROCESS_H_
