// A worker process for tests: albef-worker in a folder with probes beside it, which it takes for
// its trainer and its coordinator.
#ifndef ALBEF_TESTS_WORKER_WORKER_PROCESS_H_
#define ALBEF_TESTS_WORKER_WORKER_PROCESS_H_

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/coordinator_file.h"
#include "tests/worker/scripted_coordinator.h"
#include "worker/child_process.h"

namespace albef {

inline bool WaitUntil(const std::function<bool()>& is_true) {
  const auto deadline = std::chrono::steady_clock::now() + ScriptedCoordinator::kLimit;
  while (!is_true()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

inline bool IsGone(int64_t pid) {
  return ::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH;
}

class WorkerProcess : public ::testing::Test {
 protected:
  void SetUp() override {
    bin_ = folder_.path() / "bin";
    run_dir_ = folder_.path() / "run";
    std::filesystem::create_directories(bin_);
    std::filesystem::create_directories(run_dir_);
    Place(ALBEF_WORKER, "albef-worker");
    Place(TRAINER_PROBE, "albef-trainer");
    Place(COORDINATOR_PROBE, "albef-coordinator");
    for (const char* name : {"train.json", "vocab.txt"}) {
      std::ofstream(folder_.path() / name) << "[]\n";
    }
  }

  void Place(const std::filesystem::path& program, const char* name) {
    std::error_code error;
    std::filesystem::create_hard_link(program, bin_ / name, error);
    if (error) std::filesystem::copy_file(program, bin_ / name);  // another file system
  }

  std::unique_ptr<ChildProcess> Start(std::vector<std::string> arguments) {
    std::vector<std::string> all = {"--config",  "tests/dist/tiny.yaml",
                                    "--set",     "data.root=" + folder_.path().string(),
                                    "--run-dir", run_dir_.string()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    FileDescriptor output(
        ::open(log_path().c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600));
    auto child = ChildProcess::Start(
        {.program = bin_ / "albef-worker", .arguments = all, .output = output.get()});
    if (!child.ok()) std::abort();
    return *std::move(child);
  }

  // As srun does it.
  std::unique_ptr<ChildProcess> StartTask(int order, int num_tasks) {
    ::setenv("SLURM_PROCID", std::to_string(order).c_str(), 1);
    ::setenv("SLURM_STEP_NUM_TASKS", std::to_string(num_tasks).c_str(), 1);
    auto worker = Start({});
    ::unsetenv("SLURM_PROCID");
    ::unsetenv("SLURM_STEP_NUM_TASKS");
    return worker;
  }

  std::unique_ptr<ChildProcess> StartWith(const ScriptedCoordinator& coordinator,
                                          std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.end(), {"--coordinator", coordinator.address()});
    return Start(std::move(arguments));
  }

  ChildExit WaitForExit(ChildProcess& worker) {
    pollfd entry = {.fd = worker.exit_fd(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1,
           static_cast<int>(std::chrono::milliseconds(ScriptedCoordinator::kLimit).count()));
    const auto exit = worker.TryReap();
    EXPECT_TRUE(exit.has_value()) << "the worker lives on:\n" << Log();
    return exit.value_or(ChildExit{.exit_code = -1});
  }

  // Its trainer, once it has parked.
  v1::TrainerStarted StartTrainer(ScriptedCoordinator& coordinator) {
    coordinator.WaitForHello();
    coordinator.Start();
    const v1::TrainerStarted started = coordinator.WaitForTrainerStarted();
    WaitForParked(coordinator, 0);
    return started;
  }

  static void WaitForParked(ScriptedCoordinator& coordinator, int64_t generation) {
    coordinator.WaitFor("parked", [&](const v1::WorkerMessage& message) {
      return message.has_from_trainer() && message.from_trainer().message().has_parked() &&
             message.from_trainer().message().parked().generation() == generation;
    });
  }

  static void Tell(ScriptedCoordinator& coordinator, int64_t incarnation, uint32_t flags) {
    v1::ControlMessage message;
    message.mutable_raise_flags()->set_flags(flags);
    coordinator.SendControl(incarnation, std::move(message));
  }

  std::filesystem::path log_path() const { return folder_.path() / "log"; }
  std::string Log() const { return ReadFile(log_path()).value_or(""); }
  std::vector<std::string> CoordinatorStarts() const {
    std::vector<std::string> lines;
    std::ifstream file(run_dir_ / "starts");
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  int64_t CoordinatorPid(int64_t term) {
    int64_t pid = 0;
    EXPECT_TRUE(WaitUntil([&] {
      const auto info = ReadCoordinatorFile(run_dir_);
      if (!info.ok() || info->term != term) return false;
      pid = info->pid;
      return true;
    })) << "no coordinator of term "
        << term << ":\n"
        << Log();
    return pid;
  }
  // Welcomes by coordinators of this term, to all workers.
  int NumSessions(int64_t term) const {
    const std::string log = Log();
    const std::string text =
        fmt::format("in session with the coordinator run_id=run-1 term={} ", term);
    int count = 0;
    for (size_t at = 0; (at = log.find(text, at)) != log.npos; ++at) ++count;
    return count;
  }
  bool LogHas(const std::string& text) {
    return WaitUntil([&] { return Log().find(text) != std::string::npos; });
  }

  const TemporaryDirectory folder_;
  std::filesystem::path bin_;
  std::filesystem::path run_dir_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_WORKER_WORKER_PROCESS_H_
