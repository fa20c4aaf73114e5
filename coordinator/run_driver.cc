#include "coordinator/run_driver.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/status_macros.h"

namespace albef {
namespace {

// A process that did not run for so long may have lost its term meanwhile.
constexpr MonotonicDuration kStopped = std::chrono::milliseconds(500);
constexpr MonotonicDuration kHelloLimit = std::chrono::seconds(10);
constexpr MonotonicDuration kComesBack = std::chrono::seconds(3);
constexpr size_t kMaxNameBytes = 256;

MonotonicTime Now() { return std::chrono::steady_clock::now(); }

}  // namespace

absl::StatusOr<std::unique_ptr<RunDriver>> RunDriver::Create(Options options) {
  std::unique_ptr<RunDriver> driver(new RunDriver(std::move(options)));
  RETURN_IF_ERROR(driver->Open());
  driver->loop_.Start();
  return driver;
}

RunDriver::RunDriver(Options options)
    : options_(std::move(options)),
      loop_({.interval = options_.tick,
             .before = [this] { BeforeTurn(); },
             .after = [this] { Turn(); }}),
      last_turn_(Now()),
      last_tick_(Now()) {}

void RunDriver::EndSessions() {
  loop_.Stop();
  for (const auto& [number, session] : sessions_) {
    session.stream->Close(absl::UnavailableError("the coordinator ends"));
  }
  sessions_.clear();
  waiters_.clear();
  watchers_.clear();
}

RunDriver::~RunDriver() {
  EndSessions();
  if (configuring_.joinable()) configuring_.join();
  reports_.reset();
  if (progress_ != nullptr) progress_->EndLine();
}

absl::Status RunDriver::Open() {
  ASSIGN_OR_RETURN(recorder_, Recorder::Open({.run_dir = options_.run_dir}));
  ASSIGN_OR_RETURN(ledger_, Ledger::Open({.run_dir = options_.run_dir, .term = options_.term}));
  counters_ = RunCounters(recorder_->last_step().value_or(0));
  run_id_ = ledger_->recovered().run_id;
  if (options_.progress.has_value()) {
    progress_ = std::make_unique<ProgressPrinter>(*options_.progress);
  }
  ReportLog::Options reports{.run_dir = options_.run_dir, .recorder = recorder_.get()};
  reports.on_recorded = [this](const std::string& worker_id, int64_t sequence) {
    Post([this, worker_id, sequence] {
      int64_t& newest = acknowledgements_[worker_id];
      newest = std::max(newest, sequence);
    });
  };
  if (progress_ != nullptr) {
    reports.on_step = [this](const StepMetrics& metrics) {
      progress_->Show(ProgressOf(metrics, target_step_, num_epochs_));
    };
    reports.before_event = [this] { progress_->EndLine(); };
  }
  ASSIGN_OR_RETURN(reports_, ReportLog::Start(std::move(reports)));
  return GoOn();
}

absl::Status RunDriver::GoOn() {
  const LedgerContents& contents = ledger_->recovered();
  const bool is_told_the_end = contents.outcome.has_value() && options_.start == Start::kTakeOver;
  const bool goes_on = contents.has_attempt && options_.start != Start::kNewAttempt &&
                       (is_told_the_end || !contents.outcome.has_value());
  const bool is_under_way = goes_on && contents.configured.has_value() && !is_told_the_end;
  CheckpointCommitter::Options committer{.run_dir = options_.run_dir, .term = options_.term};
  if (is_under_way) committer.alive_generation = contents.generation.generation;
  ASSIGN_OR_RETURN(committer_, CheckpointCommitter::Start(std::move(committer)));
  if (!goes_on) return ledger_->WriteAndWait(ledger_entry::NewAttempt{});

  device_ = contents.device;
  if (is_told_the_end) {
    spdlog::info("the run has ended already state={} step={}", contents.outcome->state,
                 contents.outcome->step);
    is_end_repeated_ = true;
    is_configured_ = contents.configured.has_value();
    machine_.emplace(MachineOptions(), Now());
    Feed(run_event::NotConfigured{*contents.outcome});
    HandleEvents();
    return absl::OkStatus();
  }
  if (!is_under_way) return absl::OkStatus();
  ASSIGN_OR_RETURN(RunConfig config, ReadRunConfiguration(options_.run_dir));
  RunMachine::Options machine = MachineOptions();
  SetElasticOptions(config, machine);
  machine.recovered = contents.generation;
  machine.configured = contents.configured;
  is_configured_ = true;
  target_step_ = contents.configured->target_step;
  virtual_ranks_ = contents.configured->virtual_ranks;
  SetConfiguration(std::move(config));
  spdlog::info("going on after a restart generation={} members={} checkpoint_step={}",
               contents.generation.generation, contents.generation.members.size(),
               machine.last_checkpoint.has_value() ? machine.last_checkpoint->step() : 0);
  machine_.emplace(std::move(machine), Now());
  RepeatCommands();
  return absl::OkStatus();
}

RunMachine::Options RunDriver::MachineOptions() const {
  RunMachine::Options options;
  options.run_id = run_id_;
  options.run_dir = options_.run_dir.string();
  options.device = device_;
  options.term = options_.term->number();
  options.can_be_taken_over = options_.can_be_taken_over;
  // Generations only grow, over all attempts.
  options.recovered = GenerationRecord{.generation = ledger_->recovered().generation.generation};
  if (const std::vector<v1::Checkpoint> checkpoints = committer_->List(); !checkpoints.empty()) {
    options.last_checkpoint = checkpoints.front();
  }
  return options;
}

void RunDriver::RepeatCommands() {
  std::optional<ledger_entry::Command> ending;
  bool is_paused = false;
  for (const ledger_entry::Command& command : ledger_->recovered().commands) {
    if (command.command == RunCommand::kPause) is_paused = true;
    if (command.command == RunCommand::kResume) is_paused = false;
    if (command.command == RunCommand::kDrainRun || command.command == RunCommand::kStop) {
      ending = command;
    }
  }
  RunActions actions;
  if (is_paused) machine_->Command(RunCommand::kPause, "", Now(), &actions).IgnoreError();
  if (ending.has_value()) {
    machine_->Command(ending->command, ending->argument, Now(), &actions).IgnoreError();
  }
  Carry(std::move(actions));
}

void RunDriver::Post(std::function<void()> task) {
  loop_.Post([this, task = std::move(task)] {
    if (!is_stale_) task();
  });
}

void RunDriver::BeforeTurn() {
  const MonotonicTime now = Now();
  const bool was_stopped = now - last_turn_ > options_.tick + kStopped;
  last_turn_ = now;
  if (!was_stopped || is_stale_) return;
  if (const absl::Status status = options_.term->CheckCurrent();
      absl::IsFailedPrecondition(status)) {
    BecomeStale(status);
  }
}

void RunDriver::EndStale(const absl::Status& status) {
  Post([this, status] { BecomeStale(status); });
}

void RunDriver::BecomeStale(const absl::Status& status) {
  if (std::exchange(is_stale_, true)) return;
  if (options_.on_stale) options_.on_stale(status);
}

void RunDriver::Turn() {
  if (is_stale_) return;
  HandleEvents();
  const MonotonicTime now = Now();
  // What looks at all workers or sessions is not for every message.
  const bool is_tick_due = now - last_tick_ >= options_.tick;
  if (is_tick_due) CloseSilentSessions();
  if (is_tick_due) ++num_ticks_;
  if (is_tick_due && machine_.has_value()) {
    counters_.OnTime(machine_->state(), std::chrono::duration<double>(now - last_tick_).count());
    last_tick_ = now;
    Carry(machine_->Tick(now));
    has_most_ = machine_->HasMostMembers();
  }
  SendAcknowledgements();
  AnswerWaiters();
  ServeWatchers();
  CheckFinished();
  last_turn_ = Now();
}

Pulse RunDriver::pulse() const {
  return {.term = options_.term->number(), .beat = num_ticks_, .has_most = has_most_};
}

uint64_t RunDriver::OpenSession(std::shared_ptr<SessionStream> stream) {
  const uint64_t number = ++last_number_;
  Post([this, number, stream = std::move(stream)] {
    sessions_[number] = {.stream = stream, .worker_id = {}, .opened_at = Now()};
  });
  return number;
}

void RunDriver::Receive(uint64_t session, v1::WorkerMessage message,
                        std::function<void()> dealt_with) {
  auto shared = std::make_shared<v1::WorkerMessage>(std::move(message));
  Post([this, session, shared = std::move(shared), dealt_with = std::move(dealt_with)] {
    OnReceived(session, std::move(*shared));
    dealt_with();
  });
}

void RunDriver::SessionBroken(uint64_t session, std::string reason) {
  Post([this, session, reason = std::move(reason)] {
    const auto entry = sessions_.find(session);
    if (entry == sessions_.end()) return;
    const auto newest = session_of_.find(entry->second.worker_id);
    if (newest != session_of_.end() && newest->second == session) session_of_.erase(newest);
    sessions_.erase(entry);
    Feed(run_event::SessionBroken{session, reason});
  });
}

void RunDriver::OnReceived(uint64_t number, v1::WorkerMessage message) {
  const auto entry = sessions_.find(number);
  if (entry == sessions_.end()) return;
  Session& session = entry->second;
  if (message.has_hello() != session.worker_id.empty()) {
    const bool is_late = !session.worker_id.empty();
    CloseSession(number, absl::InvalidArgumentError(is_late ? "a second hello in a session"
                                                            : "a session begins with a hello"));
    return Feed(run_event::SessionBroken{number, "protocol error"});
  }
  if (message.has_hello()) {
    if (const absl::Status status = OnHello(session, message.hello()); !status.ok()) {
      spdlog::warn("worker refused worker={} host={} reason={}",
                   LogValue(message.hello().worker_id()), LogValue(message.hello().host()),
                   LogValue(std::string(status.message())));
      return CloseSession(number, status);
    }
    session_of_[session.worker_id] = number;
  } else if (message.has_from_trainer() && message.from_trainer().message().has_report()) {
    OnReport(session, message.from_trainer());
  } else if (message.has_heartbeat()) {
    acknowledgements_.try_emplace(session.worker_id, session.acknowledged);
  }
  Feed(run_event::FromWorker{number, std::move(message)});
}

absl::Status RunDriver::OnHello(Session& session, const v1::Hello& hello) {
  if (hello.worker_id().empty() || hello.worker_id().size() > kMaxNameBytes ||
      hello.host().size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        fmt::format("a hello names its worker and host with 1 to {} bytes", kMaxNameBytes));
  }
  if (!machine_.has_value()) {
    const v1::RunRequest& request = hello.run_request();
    if (!hello.has_run_request()) {
      return absl::InvalidArgumentError(
          "the run has not begun, and the worker's hello does not say what to run");
    }
    ASSIGN_OR_RETURN(RunConfig config, ParseRequest(request));
    device_ = request.device();
    request_ = request;
    RunMachine::Options options = MachineOptions();
    SetElasticOptions(config, options);
    SetConfiguration(std::move(config));
    machine_.emplace(std::move(options), Now());
  } else if (hello.has_run_request() && check_.has_value() && !machine_->HasEnded()) {
    RETURN_IF_ERROR(check_->Check(hello.run_request()));
  }
  session.worker_id = hello.worker_id();
  return absl::OkStatus();
}

void RunDriver::SetConfiguration(RunConfig config) {
  num_epochs_ = config.schedular.epochs;
  batch_size_ = config.batch_size;
  committer_->SetRetention(
      {.keep = config.checkpoint.keep, .keep_every = config.checkpoint.keep_every});
  check_.emplace(std::move(config), device_);
}

void RunDriver::OnReport(const Session& session, const v1::FromTrainer& from) {
  const v1::Report& report = from.message().report();
  if (report.has_step()) {
    counters_.OnStep(MetricsOf(report.step()), virtual_ranks_ * batch_size_);
  } else if (report.has_event()) {
    counters_.OnEvent(EventOf(report.event()));
  } else if (report.has_restart()) {
    counters_.OnRestart(report.restart().step());
  } else if (report.kind_case() == v1::Report::kBadSampleJson) {
    counters_.OnBadSample(report.bad_sample_json());
  }
  reports_->Record(session.worker_id, from.sequence(), report);
}

void RunDriver::CloseSession(uint64_t number, const absl::Status& status) {
  const auto entry = sessions_.find(number);
  if (entry == sessions_.end()) return;
  entry->second.stream->Close(status);
  const auto newest = session_of_.find(entry->second.worker_id);
  if (newest != session_of_.end() && newest->second == number) session_of_.erase(newest);
  sessions_.erase(entry);
}

void RunDriver::SendAcknowledgements() {
  if (acknowledgements_.empty() || !machine_.has_value()) return;
  const double heartbeat_s = std::chrono::duration<double>(machine_->HeartbeatInterval()).count();
  for (const auto& [worker_id, sequence] : acknowledgements_) {
    const auto session = session_of_.find(worker_id);
    if (session == session_of_.end()) continue;  // will send its reports again
    v1::CoordinatorMessage message;
    message.mutable_acknowledge()->set_sequence(sequence);
    message.mutable_acknowledge()->set_heartbeat_seconds(heartbeat_s);
    Session& receiver = sessions_.at(session->second);
    receiver.acknowledged = sequence;
    receiver.stream->Send(message);
  }
  acknowledgements_.clear();
}

void RunDriver::CloseSilentSessions() {
  const MonotonicTime limit = Now() - kHelloLimit;
  std::vector<uint64_t> silent;
  for (const auto& [number, session] : sessions_) {
    if (session.worker_id.empty() && session.opened_at < limit) silent.push_back(number);
  }
  for (const uint64_t number : silent) {
    CloseSession(number, absl::DeadlineExceededError("no hello in the first seconds"));
  }
}

void RunDriver::CheckFinished() {
  if (!machine_.has_value() || !machine_->HasEnded() || is_finished_) return;
  const MonotonicTime now = Now();
  if (!ended_at_.has_value()) ended_at_ = now;
  const bool is_over = now - *ended_at_ > options_.farewell;
  if (num_holds_ > 0) {
    if (now - *ended_at_ <= 2 * options_.farewell) return;
    spdlog::error("the end of the run cannot be made durable, telling workers all the same");
    num_holds_ = 0;
    CarryWaiting();
  }
  // Who was here a moment ago and was not told comes back, and would start another coordinator.
  const auto is_awaited = [&](const auto& entry) {
    const RunWorker& worker = entry.second;
    return worker.lost_at.has_value() && now - *worker.lost_at < kComesBack &&
           !worker.is_released && !told_the_end_.contains(worker.id);
  };
  const bool is_anyone_awaited =
      is_end_repeated_ ||
      std::any_of(machine_->workers().begin(), machine_->workers().end(), is_awaited);
  if (!is_over && (!sessions_.empty() || is_anyone_awaited)) return;
  is_finished_ = true;
  if (options_.on_finished) options_.on_finished(exit_code_);
}

v1::RunStatus RunDriver::Status() const {
  if (machine_.has_value()) return machine_->Status();
  v1::RunStatus status;
  status.set_run_id(run_id_);
  status.set_run_dir(options_.run_dir.string());
  status.set_state(v1::RUN_STATE_WAITING);
  status.set_reason("no worker has joined");
  status.set_term(options_.term->number());
  if (const std::vector<v1::Checkpoint> checkpoints = committer_->List(); !checkpoints.empty()) {
    *status.mutable_last_checkpoint() = checkpoints.front();
  }
  return status;
}

}  // namespace albef
