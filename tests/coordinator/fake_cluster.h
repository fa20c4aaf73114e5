// Workers and trainers that behave as the protocol says, in simulated time, around a RunMachine.
//
// Nothing here computes: a trainer's state is its iteration number, and its digest a function of
// that. What is simulated is who knows what when: messages take time, gates are seen by one member
// before the other, processes die and stop in between. Every message that the machine gives out is
// checked against the invariants in run_machine.h.
#ifndef ALBEF_TESTS_COORDINATOR_FAKE_CLUSTER_H_
#define ALBEF_TESTS_COORDINATOR_FAKE_CLUSTER_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/run_machine.h"

namespace albef {

class FakeCluster {
 public:
  struct Options {
    RunMachine::Options machine = {};
    ConfiguredRun run = {.virtual_ranks = 2, .target_step = 50};
    int64_t expected_workers = 0;   // as every worker says
    bool configures_itself = true;  // answers Configure
    MonotonicDuration step_time = std::chrono::milliseconds(100);
    MonotonicDuration start_time = std::chrono::milliseconds(300);  // of a trainer
    MonotonicDuration max_delay = {};                               // of a message, random
    MonotonicDuration tick = std::chrono::milliseconds(20);
    uint64_t seed = 1;
    int64_t checkpoint_every = 10;
    MonotonicDuration write_time = {};  // of a shard, random
    bool can_write = true;              // shards
    bool can_commit = true;             // checkpoints whose shards are written
  };

  // One life of a trainer process.
  struct Trainer {
    int64_t incarnation = 0;
    v1::TrainerPhase phase = v1::TRAINER_PHASE_STARTING;
    MonotonicTime busy_until = {};
    int64_t prepared = 0;
    int64_t generation = 0;  // assigned
    int rank = -1;
    v1::Assign assign = {};
    bool has_state = false;
    bool is_corrupt = false;
    int64_t iteration = 0;
    bool holds = false;  // contributed to the gate of `iteration`
    std::optional<int64_t> last_decision = {};
    uint32_t flags = 0;
    int64_t checkpoint_step = -1;  // newest taken in the prepared generation
    std::optional<v1::Parked> parked = {};
    std::optional<v1::Synced> synced = {};
    std::optional<v1::Held> held = {};
    std::optional<v1::ShardWritten> shard_written = {};
    MonotonicTime section_since = {};
    v1::Activity::Section section = v1::Activity::SECTION_SETUP;
    MonotonicTime reported_at = {};
    std::optional<v1::Activity> activity = {};  // as last reported
    MonotonicTime failure_noticed_at = MonotonicTime::max();
    bool has_failed = false;  // has said so; its supervisor says it again after each hello
    bool is_stopped = false;
    bool is_stuck = false;  // in compute, for ever
  };
  struct Worker {
    std::string id, host;
    int64_t order = -1;
    uint64_t session = 0;   // 0: not connected
    bool is_known = false;  // the machine has the hello
    MonotonicTime known_since = {};
    bool is_gone = false;
    bool is_silent = false;  // no heartbeats, nothing is relayed
    int64_t incarnations = 0;
    std::optional<Trainer> trainer = {};
    MonotonicTime heartbeat_at = {};
    MonotonicDuration heartbeat_interval = std::chrono::milliseconds(200);
    MonotonicTime last_activity = {};
    std::deque<std::pair<MonotonicTime, v1::WorkerMessage>> to_machine;
    std::optional<std::pair<MonotonicTime, v1::ShardWritten>> shard_under_way = {};
    std::deque<std::pair<MonotonicTime, v1::CoordinatorMessage>> to_worker;
    std::optional<v1::End> end = {};
    std::optional<int> exit_at_start = {};  // its trainers exit with this code instead of starting
  };

  explicit FakeCluster(Options options);

  void Add(const std::string& id, const std::string& host, int64_t order);
  void Remove(const std::string& id);  // the worker and its trainer are killed
  void Disconnect(const std::string& id);
  void Reconnect(const std::string& id);
  void KillTrainer(const std::string& id, int signal = 9, int exit_code = 0,
                   const std::string& log = "");
  Worker& worker(const std::string& id) { return *workers_.at(id); }
  Trainer& trainer(const std::string& id) { return *workers_.at(id)->trainer; }
  std::vector<std::string> ids() const;

  void Leave(const std::string& id, bool preempt);
  absl::Status Command(RunCommand command, const std::string& argument = "");

  void Advance(MonotonicDuration duration);
  // False if it did not come true within the limit.
  bool AdvanceUntil(const std::function<bool()>& is_true,
                    MonotonicDuration limit = std::chrono::seconds(30));
  bool AdvanceUntilState(v1::RunState state, MonotonicDuration limit = std::chrono::seconds(30)) {
    return AdvanceUntil([&] { return machine().state() == state; }, limit);
  }
  // Time passes without anybody running: the whole machine was suspended.
  void Suspend(MonotonicDuration duration) { now_ += duration; }
  // Only the coordinator does not run; its messages wait.
  void StopCoordinator() { is_coordinator_stopped_ = true; }
  void ContinueCoordinator() { is_coordinator_stopped_ = false; }
  // The coordinator dies; another with the next term reads what it persisted.
  void RestartCoordinator();

  void SetStorage(bool can_write, bool can_commit) {
    options_.can_write = can_write;
    options_.can_commit = can_commit;
  }

  MonotonicTime now() const { return now_; }
  RunMachine& machine() { return *machine_; }
  const std::optional<Outcome>& outcome() const { return outcome_; }
  const std::vector<Event>& events() const { return events_; }
  std::vector<const Event*> EventsOf(const std::string& kind) const;
  const std::optional<FirstStart>& first_start() const { return first_start_; }
  int64_t num_gates() const { return num_gates_; }
  int64_t committed_step() const { return committed_step_; }
  std::mt19937_64& random() { return random_; }

  static std::string Digest(int64_t iteration, bool is_corrupt);

 private:
  struct Mesh {
    std::vector<GenerationMember> members;
    int64_t decided = -1;  // the newest iteration whose gate was decided
    uint32_t decided_flags = 0;
  };

  MonotonicDuration Delay();
  void Carry(RunActions actions);
  void CheckSend(const Worker& worker, const v1::ControlMessage& message);
  void ToMachine(Worker& worker, v1::WorkerMessage message);
  void FromTrainer(Worker& worker, v1::TrainerMessage message);
  void SayHello(Worker& worker);
  void SayThatCommunicationFailed(Worker& worker);
  void Receive(Worker& worker, const v1::CoordinatorMessage& message);
  void ReceiveControl(Worker& worker, const v1::ControlMessage& message);
  void Watch(Worker& worker);
  void Run(Worker& worker);
  void FinishSync(Worker& worker);
  void Iterate(Worker& worker);
  void Hold(Worker& worker, uint32_t flags);
  void WriteShard(Worker& worker);
  void Commit(const run_action::CommitCheckpoint& commit);
  void EnterSection(Trainer& trainer, v1::Activity::Section section);
  Worker* Owner(const GenerationMember& member);

  Options options_;
  std::mt19937_64 random_;
  MonotonicTime now_ = MonotonicTime(std::chrono::seconds(1000));
  std::unique_ptr<RunMachine> machine_;
  std::map<std::string, std::unique_ptr<Worker>> workers_;
  std::map<uint64_t, std::string> sessions_;
  std::map<int64_t, Mesh> meshes_;
  uint64_t last_session_ = 0;
  int64_t term_ = 1;
  int64_t newest_prepared_ = 0;
  int64_t newest_gate_ = 0;
  int64_t num_gates_ = 0;
  int64_t committed_step_ = -1;
  bool is_coordinator_stopped_ = false;
  std::optional<GenerationRecord> record_;
  std::optional<ConfiguredRun> configured_;
  std::optional<FirstStart> first_start_;
  std::optional<Outcome> outcome_;
  std::vector<Event> events_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_COORDINATOR_FAKE_CLUSTER_H_
