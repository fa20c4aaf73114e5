// Workers without trainers: any number of sessions with a real coordinator over gRPC that behave as
// the protocol says, in one process. For tests and for measuring the coordinator.
//
// A trainer's state is its iteration number. The members of a generation iterate together as long
// as all of them run; who dies stops them. Checkpoints are real: every member writes a shard of a
// small state, which the coordinator commits and verifies.
#ifndef ALBEF_BENCHMARKS_SIMULATED_FLEET_H_
#define ALBEF_BENCHMARKS_SIMULATED_FLEET_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "proto/coordinator.grpc.pb.h"

namespace albef {

class SimulatedFleet {
 public:
  struct Options {
    std::filesystem::path run_dir = {};  // where coordinator.json and the token are
    v1::RunRequest request = {};
    int num_workers = 1;
    int workers_per_host = 8;
    int64_t target_step = 1'000'000'000;
    std::chrono::milliseconds step_interval = std::chrono::milliseconds(20);
    std::chrono::milliseconds silence_limit = std::chrono::seconds(5);  // of a coordinator
    std::string token = {};                                             // instead of the run's
  };

  // As seen from outside, at one moment.
  struct WorkerView {
    std::string id;
    bool is_connected = false;
    v1::TrainerPhase phase = v1::TRAINER_PHASE_NONE;
    int64_t generation = 0;  // assigned
    int rank = -1;
    int64_t iteration = 0;
    int64_t term = 0;
    size_t num_unacknowledged = 0;
    std::optional<int> exit_code = {};  // was told the end
    absl::Status ended_with = {};       // of its newest stream
  };

  explicit SimulatedFleet(Options options);
  ~SimulatedFleet();

  // The index of a worker that joins.
  int Add();
  void KillTrainer(int index, int signal = 9);
  // The worker and its trainer are gone for good.
  void Lose(int index);
  // Its stream breaks, and it dials again.
  void Disconnect(int index);
  void Leave(int index, bool preempt);
  void Report(int index, v1::Report report);

  std::vector<WorkerView> Workers() const;
  // False if it did not come true in time.
  bool WaitUntil(const std::function<bool(const std::vector<WorkerView>&)>& is_true,
                 std::chrono::milliseconds limit = std::chrono::seconds(30));
  int64_t num_messages_sent() const;
  int64_t num_messages_received() const;

 private:
  class Stream;
  struct Trainer;
  struct Worker;

  // All with mutex_ held.
  void AddLocked();
  void Dial(Worker& worker);
  void OnBroken(Worker& worker, const absl::Status& status);
  void Send(Worker& worker, v1::WorkerMessage message);
  void SendTrainer(Worker& worker, v1::TrainerMessage message);
  void SendReport(Worker& worker, v1::Report report);
  void SayHello(Worker& worker);
  void Receive(Worker& worker, const v1::CoordinatorMessage& message);
  void ReceiveControl(Worker& worker, const v1::ControlMessage& message);
  void StartTrainer(Worker& worker);
  void ExitTrainer(Worker& worker, int signal);
  void Park(Worker& worker, int64_t generation);
  void Sync(Worker& worker, const v1::Assign& assign);
  const v1::MemberList& MembersOf(const v1::Assign& assign);
  void WriteShard(Worker& worker);
  void Hold(Worker& worker, uint32_t flags);
  void Iterate();
  void Tick(std::chrono::steady_clock::time_point now);
  void OnStreamDone(Stream* stream, const absl::Status& status);
  void Thread();

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Worker>> workers_;  // guarded by mutex_, as the rest
  std::map<int64_t, Worker*> by_incarnation_;     // of the trainers that live
  int64_t members_generation_ = 0;
  v1::MemberList members_;                         // of that generation
  std::vector<std::shared_ptr<Stream>> streams_;   // not done
  std::vector<std::shared_ptr<Stream>> finished_;  // to be destroyed by thread_
  int64_t last_incarnation_ = 0;
  int64_t newest_generation_ = 0;
  int64_t num_sent_ = 0;
  int64_t num_received_ = 0;
  std::chrono::steady_clock::time_point step_at_ = {};
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_BENCHMARKS_SIMULATED_FLEET_H_
