// albef-worker's life: the session with the coordinator, one trainer, and where this worker is to
// run one, the coordinator itself (design §2, §6).
//
// One event loop on the thread that calls Run, which must live as long as the process: it starts
// all children, and the kernel ties them to that thread. Nothing in the loop waits: the session has
// threads of its own (session_client.h), so has the trainer's output.
//
//   - What the coordinator says is done: start, pass on, kill. What the trainer says is passed on;
//     reports are kept until they are recorded (report_backlog.h). What it is busy with goes with
//     the heartbeats, whose pace the coordinator names.
//   - A session that breaks is opened again with a hello that says where the trainer stands
//     (trainer_view.h); the trainer does not notice.
//   - End: the trainer is given a moment, then killed; the exit code is the one that End brings. A
//     coordinator of ours outlives that until it has told everybody, within a bound.
//   - First INT, TERM or USR2: the run is asked to checkpoint and end. Second INT: all children are
//     killed, 130. HUP, which comes when the launcher is gone: this worker leaves, and the run ends
//     where all do.
#ifndef ALBEF_WORKER_SUPERVISOR_H_
#define ALBEF_WORKER_SUPERVISOR_H_

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "common/file.h"
#include "coordinator/stop_aware_clock.h"
#include "proto/coordinator.pb.h"
#include "worker/coordinator_finder.h"
#include "worker/coordinator_process.h"
#include "worker/coordinator_watch.h"
#include "worker/report_backlog.h"
#include "worker/session_client.h"
#include "worker/trainer_process.h"
#include "worker/trainer_view.h"

namespace albef {

class Supervisor {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    std::filesystem::path trainer_program = {};
    v1::RunRequest run_request = {};
    std::string host = {};       // as the run calls this machine
    std::string worker_id = {};  // of this process alone
    int64_t order = -1;
    int64_t local_rank = 0;       // among the workers of this machine, as far as the launcher knows
    std::string log_suffix = {};  // of this worker's and its trainer's log
    std::string advertised_host = {};  // for other trainers; empty: found on the way
    bool is_first = false;             // starts a coordinator at once
    std::optional<CoordinatorCommand> coordinator = {};  // embedded; unset: external
    std::string external_address = {};                   // of an external coordinator
    RunDirectoryPast past = {};
    CoordinatorWatch::Options watch = {};           // is_embedded and order are set from the above
    std::chrono::milliseconds silence_limit{5000};  // of a coordinator; it answers heartbeats
    // After a signal: without a coordinator for so long there is nothing to wait for.
    std::chrono::milliseconds leave_limit{10000};
    std::chrono::milliseconds trainer_end_limit{5000};
    std::chrono::milliseconds coordinator_end_limit{15000};
  };

  // Blocks INT, TERM, USR2 and HUP, and ignores PIPE, for the calling thread and all that it
  // starts: to be called before there is any other. Children start without.
  static void BlockSignals();

  explicit Supervisor(Options options);
  ~Supervisor();

  // Until the run or this worker ends. The exit code of the process.
  int Run();

 private:
  using Time = std::chrono::steady_clock::time_point;

  absl::Status Prepare();
  void Poll();

  // --- session ---
  void OnSessionEvent(SessionEvent& event);
  void OnOpened(const session_event::Opened& opened);
  void OnClosed(const session_event::Closed& closed);
  void OnCoordinatorMessage(const v1::CoordinatorMessage& message);
  void OnWelcome(const v1::Welcome& welcome);
  void OnEnd(const v1::End& end);
  void Send(v1::WorkerMessage message);
  void SetHeartbeatInterval(double seconds);
  void NoteTrouble(const std::string& trouble);
  void SendHello();
  void SendLeave();

  // --- trainer ---
  void StartTrainer(const v1::StartTrainer& start);
  void OnControl(const v1::ToTrainer& to_trainer);
  void KillTrainer(const v1::KillTrainer& kill);
  void ReadTrainer();
  void OnTrainerMessage(v1::TrainerMessage message);
  void ReapTrainer();

  // --- coordinator of our own ---
  void StartOwnCoordinator(std::optional<int64_t> after_term);
  void ReapCoordinator();
  bool MustOutliveTrainer() const;

  // --- time and signals ---
  void OnSignals();
  void OnTime();
  void WatchCoordinator();
  void CheckEnding();
  void Finish(int exit_code);

  const Options options_;
  FileDescriptor signals_;
  std::unique_ptr<SessionClient> session_;
  uint64_t stream_ = 0;  // hello was sent into it; 0: none
  bool is_welcomed_ = false;
  Time lost_at_ = {};  // the newest session
  std::string run_id_;
  std::string local_host_;
  Time heard_at_ = {};  // the coordinator, in this session
  Time heartbeat_at_ = {};
  std::chrono::milliseconds heartbeat_interval_{200};  // until the coordinator says another

  TrainerView view_;
  ReportBacklog backlog_;
  std::unique_ptr<TrainerProcess> trainer_;
  bool is_trainer_killed_ = false;  // by us, and not reaped yet
  bool is_trainer_deaf_ = false;    // its control socket has ended
  Time deaf_at_ = {};

  std::unique_ptr<ChildProcess> coordinator_;
  std::optional<int> coordinator_exit_code_;  // of the last one
  CoordinatorWatch watch_;
  StopAwareClock clock_;
  Time now_;  // of clock_

  std::string leave_reason_;  // empty: no signal has come
  bool is_left_alone_ = false;
  Time leave_at_ = {};
  std::set<std::string> noted_troubles_;  // each is logged once between two sessions
  std::optional<v1::End> end_;
  Time end_at_ = {};
  std::optional<int> exit_code_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_SUPERVISOR_H_
