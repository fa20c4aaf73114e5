// The run's state machine at work: takes what workers and operators say, gives it to RunMachine,
// and carries out what that decides.
//
// 1. One thread owns the machine; everything here is a message to it. It never waits: not for
//    storage, not for a worker that does not read.
// 2. Actions are carried out in their order. Those behind one that must be durable wait until the
//    ledger has it; the machine goes on meanwhile, so heartbeats and status never wait for it.
// 3. The machine exists from the first worker's hello on, which says what to run, or, after a
//    restart of the coordinator, from the ledger.
// 4. A coordinator whose term is over does nothing any more but say so (on_stale).
#ifndef ALBEF_COORDINATOR_RUN_DRIVER_H_
#define ALBEF_COORDINATOR_RUN_DRIVER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/checkpoint_committer.h"
#include "coordinator/event_loop.h"
#include "coordinator/ledger.h"
#include "coordinator/metrics.h"
#include "coordinator/progress_line.h"
#include "coordinator/pulse.h"
#include "coordinator/recorder.h"
#include "coordinator/report_log.h"
#include "coordinator/run_configuration.h"
#include "coordinator/run_machine.h"
#include "coordinator/term.h"

namespace albef {

// The way back to a worker. None of this may wait; all of it may be called from any thread, and
// after the stream has ended.
class SessionStream {
 public:
  virtual ~SessionStream() = default;
  virtual void Send(const v1::CoordinatorMessage& message) = 0;
  virtual void Send(const AssignOrder& order) = 0;
  // What was sent before still goes out where the status is OK.
  virtual void Close(const absl::Status& status) = 0;
};

// All functions may be called from any thread; callbacks come from the driver's own thread and
// must not wait.
class RunDriver {
 public:
  enum class Start {
    kNewAttempt,  // whatever the ledger says was under way is over
    kGoOn,        // with an attempt that has not ended, if there is one; else as above
    kTakeOver,    // as kGoOn; an attempt that has ended is told to workers that come
  };

  struct Options {
    std::filesystem::path run_dir = {};
    std::optional<Term> term = {};  // required
    Start start = Start::kGoOn;
    std::chrono::milliseconds tick = std::chrono::milliseconds(50);
    // After the end: for workers that have not been told yet.
    std::chrono::milliseconds farewell = std::chrono::seconds(5);
    // Shows steps as they come.
    std::optional<ProgressPrinter::Options> progress = {};
    // The run has ended, and all workers know or are not to be reached. Called once.
    std::function<void(int exit_code)> on_finished = {};
    std::function<void(const absl::Status&)> on_stale = {};
    bool can_be_taken_over = false;  // as RunMachine::Options
  };

  static absl::StatusOr<std::unique_ptr<RunDriver>> Create(Options options);

  ~RunDriver();

  // Ends the driver's thread and closes all sessions. Whatever is asked for later gets no answer.
  void EndSessions();

  // The term is over, as seen by somebody else. Calls on_stale.
  void EndStale(const absl::Status& status);

  // Whether a worker has said what to run. On the driver's thread only.
  bool HasBegun() const { return machine_.has_value(); }

  const std::string& run_id() const { return run_id_; }

  // As of the newest tick; one that has not changed comes from a driver that does nothing.
  Pulse pulse() const;

  // --- workers ---
  // Sessions are numbered from 1 and never reused.
  uint64_t OpenSession(std::shared_ptr<SessionStream> stream);
  // `dealt_with`: the next message of this session may come.
  void Receive(uint64_t session, v1::WorkerMessage message, std::function<void()> dealt_with);
  void SessionBroken(uint64_t session, std::string reason);

  // --- operators ---
  // What is asked for has a ticket: Cancel(ticket) ends the interest in the answer.
  using Ticket = uint64_t;
  void Cancel(Ticket ticket);

  void GetStatus(std::function<void(v1::RunStatus)> answer);
  void ListWorkers(std::function<void(v1::ListWorkersResponse)> answer);
  std::vector<v1::Checkpoint> ListCheckpoints() const { return committer_->List(); }
  void GetMetrics(std::function<void(RunMetrics)> answer);
  // Called now and whenever the status has changed, at most every 200 ms, until the run ends.
  Ticket WatchStatus(std::function<void(const v1::RunStatus&, bool is_last)> on_status);
  using StatusAnswer = std::function<void(absl::StatusOr<v1::RunStatus>)>;
  // Answered when the command is in the ledger.
  void Command(RunCommand command, std::string argument, StatusAnswer answer);
  // Answered when the run is held.
  Ticket Pause(StatusAnswer answer);
  // Answered when a checkpoint of this moment or a later one is committed.
  Ticket TakeCheckpoint(std::function<void(absl::StatusOr<v1::Checkpoint>)> answer);

 private:
  struct Session {
    std::shared_ptr<SessionStream> stream;
    std::string worker_id;  // empty: has not said hello
    MonotonicTime opened_at;
    int64_t acknowledged = 0;  // in this session; said again to each heartbeat
  };
  // Something that is answered when `try_answer` returns true. Both are called on the loop.
  struct Waiter {
    Ticket ticket;
    std::function<bool()> try_answer;
  };
  struct Watcher {
    Ticket ticket;
    std::function<void(const v1::RunStatus&, bool)> on_status;
    std::string newest;  // as sent, without what changes by itself
  };

  explicit RunDriver(Options options);

  // --- start (run_driver.cc) ---
  absl::Status Open();
  absl::Status GoOn();
  RunMachine::Options MachineOptions() const;
  void RepeatCommands();

  // --- turns ---
  void Post(std::function<void()> task);  // to the loop
  void BeforeTurn();
  void Turn();
  void BecomeStale(const absl::Status& status);
  void OnReceived(uint64_t session, v1::WorkerMessage message);
  absl::Status OnHello(Session& session, const v1::Hello& hello);
  void OnReport(const Session& session, const v1::FromTrainer& from);
  void CloseSession(uint64_t session, const absl::Status& status);
  void SendAcknowledgements();
  void CloseSilentSessions();
  void AnswerWaiters();
  void ServeWatchers();
  void CheckFinished();
  v1::RunStatus Status() const;

  // --- actions (run_driver_actions.cc) ---
  void Carry(RunActions actions);
  void CarryWaiting();
  void CarryOut(run_action::Send& action);
  void CarryOut(run_action::SendAssign& action);
  void CarryOut(run_action::CloseSession& action);
  void CarryOut(run_action::Persist& action);
  void CarryOut(run_action::Record& action);
  void CarryOut(run_action::Configure& action);
  void CarryOut(run_action::CommitCheckpoint& action);
  void CarryOut(run_action::DiscardCheckpoint& action);
  void CarryOut(run_action::EndRun& action);
  // The machine gets events in their order, all of a turn at once, and before it is asked anything.
  void Feed(RunEvent event) { events_.push_back(std::move(event)); }
  void HandleEvents();
  void SetConfiguration(RunConfig config);
  // Later actions wait until the returned function was called, on any thread.
  std::function<void()> HoldActions();

  const Options options_;
  std::string run_id_;
  std::atomic<uint64_t> last_number_{0};  // of sessions and tickets
  std::atomic<int64_t> num_ticks_{0};
  std::atomic<bool> has_most_{false};  // as RunMachine::HasMostMembers

  // Each uses those above it; the threads of the later ones end first. All post to the loop, which
  // is stopped before any of them ends.
  EventLoop loop_;
  std::unique_ptr<Recorder> recorder_;
  std::unique_ptr<ProgressPrinter> progress_;  // of the report log's thread
  std::atomic<int64_t> target_step_{0};
  std::atomic<int64_t> num_epochs_{0};
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<CheckpointCommitter> committer_;
  std::unique_ptr<ReportLog> reports_;
  std::thread configuring_;

  // What follows belongs to the loop's thread.
  std::optional<RunMachine> machine_;
  std::optional<RequestCheck> check_;
  std::optional<v1::RunRequest> request_;  // that the run was begun with; unset after a restart
  std::string device_;
  int64_t batch_size_ = 0;
  int64_t virtual_ranks_ = 0;
  std::map<uint64_t, Session> sessions_;
  std::map<std::string, uint64_t> session_of_;       // by worker
  std::set<std::string> told_the_end_;               // workers
  std::map<std::string, int64_t> acknowledgements_;  // not sent yet
  std::vector<RunEvent> events_;                     // not handled yet
  std::deque<RunAction> actions_;                    // not carried out yet
  int num_holds_ = 0;
  std::vector<Waiter> waiters_;
  std::vector<Watcher> watchers_;
  MonotonicTime watched_at_;
  int64_t num_resumes_ = 0;
  RunCounters counters_;
  MonotonicTime last_turn_;
  MonotonicTime last_tick_;
  bool is_stale_ = false;
  bool is_configured_ = false;
  bool is_end_repeated_ = false;  // the run had ended before this coordinator began
  std::optional<MonotonicTime> ended_at_;
  int exit_code_ = 0;
  bool is_finished_ = false;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_DRIVER_H_
