// The life of a run as a deterministic state machine: events and time in, actions out. No clock, no
// I/O, no threads; not thread-safe.
//
//   WAITING     for workers to join; then the run's configuration is fixed, trainers are started.
//   FORMING(g)  every live trainer is told to leave its generation; who takes part is decided when
//               all of them have (membership.h).
//   SYNCING(g)  members get the same state (sync_plan.h) and prove it by equal digests.
//   RUNNING(g)  members iterate. PAUSED: they hold at a boundary, or before the first iteration.
//   RECOVERING  after a restart of the coordinator: if all members of the generation that ran come
//               back running in it, nothing is touched, else FORMING(g+1).
//   SUCCEEDED, FAILED, PREEMPTED, STOPPED: the end, EndRun was given out.
//
// A member's trainer dies, cannot reach a peer, is lost with its worker, or is stuck and killed:
// FORMING(g+1), counted as a recovery. A worker comes, goes by its own or the operator's wish: all
// are held at a boundary (FLAG_RESIZE), then FORMING(g+1).
//
// Invariants, whatever the order of events (checked over random histories by run_machine_test):
//   1. Generations only grow, and a Run, a Resume or an Assign is only given out for the newest.
//   2. Nobody is assigned to g before every live, ready trainer of a connected worker has parked in
//      g, so no two generations run at once.
//   3. The ranks of an Assign are 0 … n−1, members[rank] is the receiver, n ≤ V, and members are
//      in the order of membership.h.
//   4. A message of an older session, incarnation or generation changes nothing but its report.
//   5. A trainer that parks is, within a bound, assigned, or a spare with all V places taken or
//      without a way to some member, or the reason names what is waited for.
//   6. Workers that come and go for ever cannot stop the run: between two interruptions for their
//      sake lies at least one iteration; generations without any iteration end the run after a
//      bounded number.
//   7. EndRun is given out at most once, and after it no worker is told anything but End.
#ifndef ALBEF_COORDINATOR_RUN_MACHINE_H_
#define ALBEF_COORDINATOR_RUN_MACHINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/catalogue.h"
#include "comm/slices.h"
#include "coordinator/hang_detector.h"
#include "coordinator/membership.h"
#include "coordinator/recorder.h"
#include "coordinator/restart_budget.h"
#include "coordinator/run_worker.h"
#include "coordinator/severed_pairs.h"
#include "coordinator/shared_assign.h"
#include "coordinator/stop_aware_clock.h"
#include "proto/coordinator.pb.h"

namespace albef {

// A place in a generation.
struct GenerationMember {
  std::string worker_id = {};
  int64_t incarnation = 0;

  bool operator==(const GenerationMember&) const = default;
};

// What must survive the coordinator: the newest generation given out, and who runs in it (empty
// while nobody does).
struct GenerationRecord {
  int64_t generation = 0;
  std::string cause = {};
  std::vector<GenerationMember> members = {};
};

// What the first workers decide about a run (design §4): V and the threads of a worker.
struct FirstStart {
  int64_t num_workers = 0;
  int64_t num_workers_on_first_host = 0;
};

// The answer to FirstStart.
struct ConfiguredRun {
  int64_t virtual_ranks = 1;
  int64_t target_step = 0;
  v1::StartAction action = v1::START_ACTION_NEW;
  std::string import_path = {};
};

namespace run_event {

// Everything a worker says. Sessions are numbered by whoever owns the streams and never reused.
struct FromWorker {
  uint64_t session = 0;
  v1::WorkerMessage message = {};
};
struct SessionBroken {
  uint64_t session = 0;
  std::string reason = {};
};
struct Configured {
  ConfiguredRun run = {};
};
// The run cannot start: configuration, data, or what the run directory says.
struct NotConfigured {
  Outcome outcome = {};
};

// The answer to CommitCheckpoint.
struct CheckpointFinished {
  PartialId id = {};
  absl::Status status = {};
  v1::Checkpoint checkpoint = {};  // where status is OK
  double commit_seconds = 0;       // manifest and rename
  double verify_seconds = 0;
};

}  // namespace run_event

using RunEvent =
    std::variant<run_event::FromWorker, run_event::SessionBroken, run_event::Configured,
                 run_event::NotConfigured, run_event::CheckpointFinished>;

namespace run_action {

struct Send {
  uint64_t session = 0;
  v1::CoordinatorMessage message = {};
};
struct SendAssign {
  uint64_t session = 0;
  AssignOrder order = {};
};
// The stream is of no use any more.
struct CloseSession {
  uint64_t session = 0;
  absl::Status status = {};
};
// To be durable before any later action is carried out.
struct Persist {
  GenerationRecord record = {};
};
struct Record {
  Event event = {};
};
// Fix the configuration and answer with Configured or NotConfigured.
struct Configure {
  FirstStart facts = {};
};
// All shards are on disk, shards[i] from rank i: make the manifest, publish, verify, and answer
// with CheckpointFinished.
struct CommitCheckpoint {
  PartialId id = {};
  std::vector<v1::ShardWritten> shards = {};
};
// Its shards will never be whole.
struct DiscardCheckpoint {
  PartialId id = {};
};
// Write the outcome. Workers are told by the Sends that follow.
struct EndRun {
  Outcome outcome = {};
};

}  // namespace run_action

using RunAction =
    std::variant<run_action::Send, run_action::SendAssign, run_action::CloseSession,
                 run_action::Persist, run_action::Record, run_action::Configure,
                 run_action::CommitCheckpoint, run_action::DiscardCheckpoint, run_action::EndRun>;
using RunActions = std::vector<RunAction>;  // to be carried out in this order

enum class RunCommand { kCheckpoint, kPause, kResume, kDrainRun, kDrainWorker, kStop };

class RunMachine {
 public:
  struct Options {
    std::string run_id = {};
    std::string run_dir = {};
    std::string device = "cpu";
    int64_t term = 1;
    MembershipPolicy membership = {};
    RestartPolicy restarts = {};
    HangLimits hangs = {};
    MonotonicDuration heartbeat_limit = std::chrono::seconds(5);
    MonotonicDuration rejoin_wait = std::chrono::seconds(5);
    MonotonicDuration reattach_window = std::chrono::seconds(10);
    // Whether workers on other hosts may take over: if most of the members are lost at once, it may
    // be this host that is cut off, and they get the time for that before a generation without
    // them.
    bool can_be_taken_over = false;
    MonotonicDuration preempt_grace = std::chrono::seconds(120);
    // Generations in a row without an iteration in which a member's trainer failed by itself, was
    // killed by somebody else, or whatever else happened: so many end the run.
    int max_crashed_generations = 3;
    int max_killed_generations = 6;
    int max_fruitless_generations = 20;
    // A checkpoint that failed is tried again after this; the last one of a run so many times.
    MonotonicDuration checkpoint_retry = std::chrono::seconds(10);
    MonotonicDuration final_checkpoint_retry = std::chrono::seconds(1);
    int max_final_checkpoint_attempts = 3;
    // After a restart of the coordinator.
    std::optional<GenerationRecord> recovered = {};
    std::optional<ConfiguredRun> configured = {};
    std::optional<v1::Checkpoint> last_checkpoint = {};
  };

  RunMachine(Options options, MonotonicTime now);

  RunActions Handle(const RunEvent& event, MonotonicTime now) {
    return HandleAll({&event, 1}, now);
  }

  // The same for events that came at once, with one decision for all of them.
  RunActions HandleAll(std::span<const RunEvent> events, MonotonicTime now);

  // To be called at least every 100 ms.
  RunActions Tick(MonotonicTime now);

  // `argument`: the worker to drain (id, host or rank), or why. FAILED_PRECONDITION, NOT_FOUND,
  // INVALID_ARGUMENT say what to do instead. `actions` may grow also then.
  absl::Status Command(RunCommand command, const std::string& argument, MonotonicTime now,
                       RunActions* actions);

  // Views, as of the newest call above.
  v1::RunStatus Status() const;
  v1::ListWorkersResponse Workers() const;
  v1::RunState state() const;
  bool HasEnded() const { return phase_ == Phase::kEnded; }
  int64_t num_checkpoints() const { return num_checkpoints_; }
  int64_t num_failed_checkpoints() const { return num_failed_checkpoints_; }
  const std::string& checkpoint_failure() const { return checkpoint_failure_; }
  const std::optional<v1::Checkpoint>& last_checkpoint() const { return last_checkpoint_; }
  // The newest kCheckpoint is served by a checkpoint of this step or a later one.
  int64_t checkpoint_wanted_from() const { return checkpoint_wanted_from_; }
  // Whether a worker that was drained is still needed.
  bool IsMember(const std::string& worker_id) const;
  const std::map<std::string, RunWorker>& workers() const { return workers_; }
  // What workers are asked for: so often that nobody is taken for lost or stuck who is not, and so
  // seldom that the heartbeats of thousands are no burden.
  MonotonicDuration HeartbeatInterval() const;
  int64_t generation() const { return generation_; }
  // Whether at least half of the newest generation's members are connected; where nobody runs, of
  // the workers that were started together.
  bool HasMostMembers() const;

 private:
  enum class Phase { kWaiting, kRecovering, kForming, kSyncing, kRunning, kPaused, kEnded };
  enum class FormingCause {
    kStart,          // of the run or of the coordinator
    kResize,         // wanted
    kTrainerCrash,   // by itself
    kTrainerKilled,  // by a signal from outside, or by the coordinator
    kWorkerLost,
    kCommunication,
    kDigest,
    kStuck,
  };

  // --- events (run_machine.cc) ---
  void ApplyEvent(const RunEvent& event);
  void AdvanceClock(MonotonicTime now);
  void OnHello(uint64_t session, const v1::Hello& hello);
  void TakeOverTrainer(RunWorker& worker, const v1::Hello& hello);
  void OnWorkerMessage(RunWorker& worker, const v1::WorkerMessage& message);
  void OnHeartbeat(RunWorker& worker, const v1::Heartbeat& heartbeat);
  void OnTrainerMessage(RunWorker& worker, const v1::TrainerMessage& message);
  void OnFailure(RunWorker& worker, int exit_code);
  void OnReport(const v1::Report& report);
  void OnCommunicationFailed(const RunWorker& worker, const v1::CommunicationFailed& failed);
  void OnTrainerStarted(RunWorker& worker, const v1::TrainerStarted& started);
  void OnTrainerExited(RunWorker& worker, const v1::TrainerExited& exited);
  void OnLeave(RunWorker& worker, const v1::Leave& leave);
  void OnParked(RunWorker& worker, const v1::Parked& parked);
  void OnSynced(RunWorker& worker, const v1::Synced& synced);
  void OnHeld(RunWorker& worker, const v1::Held& held);
  void OnConfigured(const ConfiguredRun& run);
  void LoseWorker(RunWorker& worker, const std::string& reason);
  void TrainerGone(RunWorker& worker, FormingCause cause, const std::string& reason);

  // --- members (run_machine_members.cc, with HasMostMembers) ---
  std::vector<Candidate> Candidates() const;
  MembershipDecision DecideMembers() const;
  // Who has not come back to a restarted coordinator is waited for while others still do. Where the
  // state is there, not longer: most likely it went with the coordinator's host, and if not, it is
  // admitted later. None where other limits hold.
  std::optional<MonotonicTime> ReattachPauseEnd(std::span<const Candidate> candidates) const;
  // When a generation may be formed although most members are lost.
  MonotonicTime TakeoverUntil() const;

  // --- generations (run_machine_generations.cc) ---
  void Form(FormingCause cause, const std::string& reason);
  static std::string CauseName(FormingCause cause);  // for metrics
  // A loss that explains why a generation is being formed already.
  void RefineCause(FormingCause cause, const std::string& reason);
  void PrepareTrainers();
  void TryForm();
  void Assign(const MembershipDecision& decision);
  void SetMembers(std::vector<GenerationMember> members);
  void CompareSynced();
  // The gate showed it: whoever differs from the majority receives the state anew, without one all
  // load the newest checkpoint.
  void OnStateDifference(const v1::StateDifference& difference);
  void Run();
  void OnAllHeld();
  void NoteProgress(int64_t iteration);
  // Whether the run was ended for generations that bring nothing.
  bool CountFruitless();
  void ReleaseLeavers();

  // --- checkpoints (run_machine_checkpoints.cc) ---
  // Shards written so far, by shard index, and the members that write them where that is known.
  struct PendingCheckpoint {
    std::vector<GenerationMember> writers = {};
    std::map<int, v1::ShardWritten> shards = {};
    bool is_committing = false;
  };
  void OnShardWritten(const v1::ShardWritten& written);
  void OnCheckpointFinished(const run_event::CheckpointFinished& finished);
  void CheckpointFailed(const PartialId& id, const std::string& reason);
  // A trainer is gone: checkpoints that wait for its shard will never be whole.
  void DropCheckpointsOf(const RunWorker& worker);
  void Discard(const PartialId& id);
  void WantCheckpoint();
  void CheckCheckpointRetry();
  // Whether the held boundary's state is committed; asks for that and sets the reason until then.
  // Ends the run where it cannot be.
  bool IsHeldStateCommitted(int64_t iteration);

  // --- time (run_machine_tick.cc) ---
  void CheckHeartbeats();
  void CheckHangs();
  void CheckStart();
  void CheckAdmission();
  void CheckRecovery();
  void CheckWrittenOff();
  void CheckEnd();
  void StartTrainers();
  void ForgetLostWorkers();
  std::vector<WatchedTrainer> Watched(bool only_members) const;
  void Kill(RunWorker& worker, const std::string& reason);
  void Step();  // everything that may follow from a change or from time

  // --- commands and ends (run_machine_commands.cc) ---
  absl::Status Apply(RunCommand command, const std::string& argument);
  absl::Status DrainWorker(const std::string& name);
  void StartEnding(uint32_t flag, const std::string& reason);
  void LeavePause(const std::string& reason);
  void RaiseFlags(uint32_t flags);
  void ResumeMembers();
  void End(Outcome outcome);
  void EndWithoutBoundary(const std::string& why);
  Outcome EndingOutcome(const std::string& reason) const;
  void Fail(int exit_code, const std::string& reason);

  // --- acting ---
  void Enter(Phase phase, const std::string& reason);
  void SetReason(const std::string& reason);
  void LogReason();  // once; waits are logged only if they last
  void RecordState(const std::string& reason);
  void Send(const RunWorker& worker, v1::CoordinatorMessage message);
  void SendControl(const RunWorker& worker, v1::ControlMessage message);
  void SendEnd(const RunWorker& worker, int exit_code, const std::string& state,
               const std::string& reason);
  void Record(Event event);
  void PersistGeneration(const std::string& cause, bool is_running);
  RunWorker* FindSession(uint64_t session);
  RunWorker* MemberAt(size_t rank);
  std::optional<int> RankOf(const RunWorker& worker) const;
  const std::vector<Slice>& Slices() const;
  bool IsGenerationAlive() const;  // members are assigned in generation_
  bool HasMemberThatLeaves() const;
  std::string StateOf(const RunWorker& worker) const;
  bool AllMembersIn(v1::TrainerPhase phase);
  void ForEachMember(const std::function<void(RunWorker&)>& act);

  const Options options_;
  MembershipPolicy membership_;
  StopAwareClock clock_;
  MonotonicTime now_;
  MonotonicDuration gap_ = {};  // the newest time in which this process was stopped
  MonotonicTime gap_end_;
  RunActions actions_;

  Phase phase_ = Phase::kWaiting;
  v1::RunState recorded_state_ = v1::RUN_STATE_UNSPECIFIED;
  std::string reason_;
  MonotonicTime reason_since_;
  bool is_reason_logged_ = false;
  std::string logged_state_;  // of the newest line of the log about it
  MonotonicTime state_since_;
  MonotonicTime phase_since_;
  MonotonicTime waiting_since_;  // of the current forming
  bool is_configure_requested_ = false;
  std::optional<ConfiguredRun> configured_;

  std::map<std::string, RunWorker> workers_;
  std::map<uint64_t, std::string> sessions_;
  int64_t num_arrivals_ = 0;
  SeveredPairs severed_;

  int64_t generation_ = 0;
  int64_t highest_generation_seen_ = 0;  // by any worker, in an earlier term too
  MonotonicTime reattach_until_;         // after a restart of the coordinator
  MonotonicTime joined_at_;              // when the newest worker came, or came back
  // Of the newest generation that was assigned, by rank.
  std::vector<GenerationMember> members_;
  std::unordered_map<std::string, int> rank_of_;  // by worker
  mutable std::vector<Slice> slices_;             // of members_; empty: not asked for yet
  bool was_ever_assigned_ = false;
  FormingCause forming_cause_ = FormingCause::kStart;
  std::string forming_reason_;
  bool is_judged_ = false;                         // what the generation before brought was counted
  std::optional<MonotonicTime> recovering_since_;  // until members run again
  MonotonicTime assign_not_before_;

  int64_t step_ = 0;             // newest iteration known of the run
  int64_t generation_base_ = 0;  // iteration at which the generation began to run
  bool has_progress_ = false;    // it has done one since
  int num_crashed_ = 0;          // generations in a row, see Options
  int num_killed_ = 0;
  int num_fruitless_ = 0;
  // Crashes of generations that did iterations, but none that an earlier crash had not reached.
  int num_repeated_crashes_ = 0;
  int64_t furthest_crash_ = -1;
  std::string last_log_lines_;
  int64_t num_recoveries_ = 0;

  int64_t checkpoint_wanted_from_ = 0;  // a checkpoint of this step or a later one serves
  int64_t checkpoint_raised_from_ = 0;  // as RaiseFlags.checkpoint_from
  int64_t resize_generation_ = 0;       // newest in which FLAG_RESIZE was raised
  uint32_t pending_flags_ = 0;          // to be raised in every generation until they are served
  bool is_pause_wanted_ = false;
  uint32_t ending_flag_ = 0;  // FLAG_PREEMPT or FLAG_STOP
  std::string ending_reason_;
  MonotonicTime ending_since_;

  v1::StepReport last_step_;
  int64_t last_evaluation_step_ = 0;
  std::map<PartialId, PendingCheckpoint> pending_checkpoints_;
  std::optional<MonotonicTime> checkpoint_retry_at_;
  int final_checkpoint_attempts_ = 0;
  MonotonicTime final_checkpoint_not_before_;
  bool is_final_checkpoint_requested_ = false;
  std::optional<v1::Checkpoint> last_checkpoint_;
  int64_t num_checkpoints_ = 0;
  int64_t num_failed_checkpoints_ = 0;
  std::string checkpoint_failure_;
  Outcome outcome_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_MACHINE_H_
