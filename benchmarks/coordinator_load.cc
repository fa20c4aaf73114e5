// What a coordinator costs for a number of workers: starts one, lets that many simulated workers
// join, run, lose a trainer, and come back after a restart of the coordinator.
//
//   build/release/bin/coordinator_load --workers 512 --seconds 10
//
// Workers and coordinator are processes of their own on this machine; the times include what the
// simulated workers need to take their messages in.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "benchmarks/simulated_fleet.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/file.h"
#include "common/lock_checks.h"
#include "coordinator/coordinator_file.h"
#include "dataloader/synthetic.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Views = std::vector<SimulatedFleet::WorkerView>;

// albef-coordinator beside this program.
class CoordinatorProcess {
 public:
  CoordinatorProcess(const fs::path& run_dir, int64_t after_term) {
    const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "albef-coordinator";
    const std::string directory = "--run-dir=" + run_dir.string();
    const std::string term = fmt::format("--after-term={}", after_term);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::execl(program.c_str(), program.c_str(), directory.c_str(), term.c_str(), nullptr);
      ::_exit(127);
    }
  }
  ~CoordinatorProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

  double CpuSeconds() const {
    std::ifstream file(fmt::format("/proc/{}/stat", pid_));
    std::string field;
    double ticks = 0;
    for (int i = 1; i <= 15 && file >> field; ++i) {
      if (i >= 14) ticks += std::stod(field);
    }
    return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

  // "VmRSS", "VmHWM".
  double MiB(const std::string& what) const {
    std::ifstream file(fmt::format("/proc/{}/status", pid_));
    for (std::string word; file >> word;) {
      if (word == what + ":") {
        double kib = 0;
        file >> kib;
        return kib / 1024;
      }
    }
    return 0;
  }

 private:
  pid_t pid_;
};

v1::RunRequest MakeRequest(const fs::path& data, int num_workers) {
  const std::string yaml = fmt::format(
      "train_file: train.json\n"
      "bert_config: {{vocab_size: auto, hidden_size: 32, num_hidden_layers: 2, fusion_layer: 1,\n"
      "  num_attention_heads: 2, intermediate_size: 64, encoder_width: 32}}\n"
      "image_res: 32\nvision_width: 32\nvision: {{patch_size: 8, depth: 2, heads: 2}}\n"
      "embed_dim: 16\nbatch_size: 2\nqueue_size: 64\nvirtual_ranks: {}\n"
      "data: {{root: {}}}\ntokenizer: {{vocab: {}}}\n"
      "init: {{visual_encoder: random, text_encoder: random}}\n"
      "elastic: {{join_window_s: 600}}\n",
      num_workers, data.string(), (data / "vocab.txt").string());
  const auto config = ParseRunConfig(yaml, "coordinator_load");
  v1::RunRequest request;
  if (!config.ok()) {
    spdlog::error("{}", std::string(config.status().message()));
    return request;
  }
  request.set_config_yaml(ResolvedYaml(*config));
  request.set_device("cpu");
  request.set_expected_workers(num_workers);
  return request;
}

bool AllRunIn(const Views& workers, int64_t after_generation) {
  return std::all_of(workers.begin(), workers.end(), [&](const auto& worker) {
    return worker.phase == v1::TRAINER_PHASE_RUNNING && worker.generation > after_generation;
  });
}

int Main(int argc, char** argv) {
  int num_workers = 64, seconds = 10;
  CLI::App app("Measures albef-coordinator with simulated workers.", "coordinator_load");
  app.add_option("--workers", num_workers, "simulated workers")->capture_default_str();
  app.add_option("--seconds", seconds, "of undisturbed running")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  // Two sockets for each worker, in two processes.
  rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);

  const TemporaryDirectory folder;
  const fs::path data = folder.path() / "data", run_dir = folder.path() / "run";
  const auto written =
      WriteSyntheticDataset(data, {.pairs = 2 * num_workers, .test_pairs = 10, .size_px = 16});
  if (!written.ok()) {
    spdlog::error("{}", std::string(written.status().message()));
    return 1;
  }
  auto coordinator = std::make_unique<CoordinatorProcess>(run_dir, 0);
  const std::chrono::milliseconds limit = std::chrono::minutes(5);
  auto begin = Clock::now();
  SimulatedFleet fleet({.run_dir = run_dir,
                        .request = MakeRequest(data, num_workers),
                        .num_workers = num_workers,
                        .step_interval = std::chrono::milliseconds(500)});
  const auto wait = [&](const char* what, int64_t after_generation) {
    if (!fleet.WaitUntil([&](const Views& w) { return AllRunIn(w, after_generation); }, limit)) {
      spdlog::error("not within {} s: {}", limit.count() / 1000, what);
      std::exit(1);
    }
    return SecondsSince(begin);
  };
  const double start_s = wait("all run", 0);
  fmt::print("workers                       {:10}\n", num_workers);
  fmt::print("all run after                 {:10.2f} s\n", start_s);

  const double cpu_before = coordinator->CpuSeconds();
  const int64_t sent_before = fleet.num_messages_sent();
  begin = Clock::now();
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  const double wall = SecondsSince(begin);
  fmt::print("messages of workers           {:10.0f} /s\n",
             static_cast<double>(fleet.num_messages_sent() - sent_before) / wall);
  fmt::print("coordinator's CPU             {:10.1f} % of a core\n",
             100 * (coordinator->CpuSeconds() - cpu_before) / wall);
  fmt::print("coordinator's memory          {:10.0f} MiB\n", coordinator->MiB("VmRSS"));

  int64_t generation = fleet.Workers()[0].generation;
  begin = Clock::now();
  fleet.KillTrainer(num_workers / 2);
  fmt::print("death to all running again    {:10.2f} s\n",
             wait("the trainer came back", generation));
  fmt::print("coordinator's peak memory     {:10.0f} MiB\n", coordinator->MiB("VmHWM"));

  generation = fleet.Workers()[0].generation;
  begin = Clock::now();
  coordinator.reset();
  coordinator = std::make_unique<CoordinatorProcess>(run_dir, 1);
  fleet.WaitUntil(
      [&](const Views& w) {
        return std::all_of(w.begin(), w.end(),
                           [](const auto& v) { return v.is_connected && v.term == 2; });
      },
      limit);
  fmt::print("restart to all back           {:10.2f} s\n", SecondsSince(begin));
  fmt::print("generation left alone         {:>10}\n",
             fleet.Workers()[0].generation == generation ? "yes" : "NO");
  return 0;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  albef::TurnOffLockChecks();
  return albef::Main(argc, argv);
}
