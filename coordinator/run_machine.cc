#include "coordinator/run_machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "common/exit_code.h"

namespace albef {
namespace {

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

// Where to look first when a trainer fails by itself.
std::string DescribeBatch(const v1::BatchBegun& batch) {
  std::string text =
      fmt::format("its last batch was iteration {}, virtual rank {}, samples at positions {} to {}",
                  batch.iteration(), batch.virtual_rank(), batch.first_position(),
                  batch.first_position() + batch.num_samples() - 1);
  if (batch.samples().empty()) return text;
  return text + fmt::format(" ({}{})", fmt::join(batch.samples(), ", "),
                            batch.samples_size() < batch.num_samples() ? ", …" : "");
}

bool EndsTheRun(int exit_code) {
  return exit_code == static_cast<int>(ExitCode::kUsage) ||
         exit_code == static_cast<int>(ExitCode::kFailed);
}

// Whether anything but time may follow from an event: most say only that a worker lives and how far
// it is, and are many.
bool IsConsequential(const RunEvent& event) {
  const auto* from = std::get_if<run_event::FromWorker>(&event);
  if (from == nullptr) return true;
  if (from->message.has_heartbeat()) return false;
  if (!from->message.has_from_trainer()) return true;
  const v1::TrainerMessage& message = from->message.from_trainer().message();
  return !message.has_report();
}

}  // namespace

RunMachine::RunMachine(Options options, MonotonicTime now)
    : options_(std::move(options)),
      membership_(options_.membership),
      clock_(now),
      now_(now),
      gap_end_(now),
      reason_("no worker has joined"),
      state_since_(now),
      waiting_since_(now),
      configured_(options_.configured),
      last_checkpoint_(options_.last_checkpoint) {
  if (configured_.has_value()) membership_.virtual_ranks = configured_->virtual_ranks;
  if (last_checkpoint_.has_value()) step_ = last_checkpoint_->step();
  if (!options_.recovered.has_value()) return;
  generation_ = options_.recovered->generation;
  if (!configured_.has_value()) return;
  reattach_until_ = now + options_.reattach_window;
  // Nobody is about to start: who is still there is back within the window.
  membership_.join_window = std::min(membership_.join_window, options_.reattach_window);
  if (options_.recovered->members.empty()) return;
  SetMembers(options_.recovered->members);
  was_ever_assigned_ = true;
  for (const GenerationMember& member : members_) {
    workers_[member.worker_id] = {.id = member.worker_id,
                                  .arrival = num_arrivals_++,
                                  .wait_until = reattach_until_,
                                  .condition = "has not come back yet"};
  }
  Enter(Phase::kRecovering,
        fmt::format("the coordinator was restarted, {} in generation {}",
                    CountWorkers(static_cast<int64_t>(members_.size())), generation_));
}

RunActions RunMachine::HandleAll(std::span<const RunEvent> events, MonotonicTime now) {
  AdvanceClock(now);
  for (const RunEvent& event : events) ApplyEvent(event);
  if (std::any_of(events.begin(), events.end(), IsConsequential)) Step();
  return std::exchange(actions_, {});
}

void RunMachine::ApplyEvent(const RunEvent& event) {
  std::visit(Overloaded{
                 [&](const run_event::FromWorker& from) {
                   if (from.message.has_hello()) {
                     OnHello(from.session, from.message.hello());
                   } else if (RunWorker* worker = FindSession(from.session)) {
                     worker->heard_at = now_;
                     if (!HasEnded()) OnWorkerMessage(*worker, from.message);
                   }
                 },
                 [&](const run_event::SessionBroken& broken) {
                   if (RunWorker* worker = FindSession(broken.session)) {
                     LoseWorker(*worker, broken.reason);
                   }
                 },
                 [&](const run_event::Configured& configured) {
                   if (!HasEnded()) OnConfigured(configured.run);
                 },
                 [&](const run_event::NotConfigured& failed) {
                   if (!HasEnded()) End(failed.outcome);
                 },
                 [&](const run_event::CheckpointFinished& finished) {
                   if (!HasEnded()) OnCheckpointFinished(finished);
                 },
             },
             event);
}

void RunMachine::AdvanceClock(MonotonicTime now) {
  now_ = clock_.Advance(now);
  if (clock_.last_gap() == MonotonicDuration::zero()) return;
  gap_ = clock_.last_gap();
  gap_end_ = now_;
  if (!HasEnded()) {
    Record({.kind = "coordinator_stopped",
            .reason = "the coordinator did not run; all deadlines were moved",
            .facts = {{"duration_s", std::chrono::duration<double>(clock_.last_gap()).count()}}});
  }
}

void RunMachine::OnHello(uint64_t session, const v1::Hello& hello) {
  const auto refuse = [&](absl::Status status) {
    actions_.push_back(run_action::CloseSession{session, std::move(status)});
  };
  if (hello.worker_id().empty()) {
    return refuse(absl::InvalidArgumentError("hello without worker_id"));
  }
  if (!hello.run_id().empty() && hello.run_id() != options_.run_id) {
    return refuse(absl::FailedPreconditionError(fmt::format(
        "this coordinator runs {}, the worker belongs to {}", options_.run_id, hello.run_id())));
  }
  if (hello.term() > options_.term) {
    return refuse(absl::FailedPreconditionError(fmt::format(
        "this coordinator's term is {}, the worker has seen {}", options_.term, hello.term())));
  }
  const auto [entry, is_new] = workers_.try_emplace(hello.worker_id());
  RunWorker& worker = entry->second;
  if (is_new) {
    worker.id = hello.worker_id();
    worker.arrival = num_arrivals_++;
  }
  if (worker.IsConnected() && worker.session != session) {
    sessions_.erase(worker.session);
    actions_.push_back(run_action::CloseSession{
        worker.session, absl::AbortedError("the worker has opened a newer session")});
  }
  const bool was_connected = worker.IsConnected();
  sessions_[session] = worker.id;
  worker.session = session;
  worker.heard_at = now_;
  worker.host = hello.host();
  worker.order = hello.order();
  worker.supervisor_pid = hello.supervisor_pid();
  worker.start_requested_at.reset();
  worker.lost_at.reset();
  highest_generation_seen_ = std::max(highest_generation_seen_, hello.generation());
  if (!membership_.expected_workers.has_value() && hello.run_request().expected_workers() > 0) {
    membership_.expected_workers = hello.run_request().expected_workers();
  }

  v1::CoordinatorMessage message;
  message.mutable_welcome()->set_run_id(options_.run_id);
  message.mutable_welcome()->set_term(options_.term);
  message.mutable_welcome()->set_generation(generation_);
  message.mutable_welcome()->set_heartbeat_seconds(
      std::chrono::duration<double>(HeartbeatInterval()).count());
  Send(worker, std::move(message));
  if (HasEnded()) return SendEnd(worker, outcome_.exit_code, outcome_.state, outcome_.reason);
  if (!was_connected) {
    joined_at_ = now_;
    Record({.kind = "worker_joined",
            .reason = fmt::format("{} pid {}", hello.host(), hello.supervisor_pid()),
            .facts = {{"worker", worker.id}, {"order", hello.order()}}});
  }
  TakeOverTrainer(worker, hello);
}

void RunMachine::TakeOverTrainer(RunWorker& worker, const v1::Hello& hello) {
  if (hello.trainer_incarnation() == 0 ||
      (worker.trainer.has_value() && worker.trainer->incarnation != hello.trainer_incarnation())) {
    if (worker.trainer.has_value()) {
      TrainerGone(worker, FormingCause::kTrainerKilled, "died while its worker was away");
    }
    if (hello.trainer_incarnation() == 0) return;
  }
  const std::optional<int> rank =
      worker.trainer.has_value() ? RankOf(worker) : std::optional<int>();
  const std::optional<RunTrainer> known = worker.trainer;
  RunTrainer trainer;
  if (known.has_value()) trainer = *known;  // what happened to it, when
  trainer.incarnation = hello.trainer_incarnation();
  trainer.pid = hello.trainer_pid();
  trainer.phase =
      hello.phase() == v1::TRAINER_PHASE_NONE ? v1::TRAINER_PHASE_STARTING : hello.phase();
  trainer.prepared = hello.generation();
  trainer.prepared_at = now_;
  trainer.heard_at = now_;
  trainer.ready_since = now_;
  trainer.generation = hello.generation();
  if (hello.has_parked()) trainer.parked = hello.parked();
  if (hello.has_synced()) trainer.synced = hello.synced();
  if (hello.has_held()) trainer.held = hello.held();
  if (hello.has_shard_written()) OnShardWritten(hello.shard_written());
  if (trainer.phase == v1::TRAINER_PHASE_PARKED) trainer.generation = hello.parked().generation();
  if (trainer.phase == v1::TRAINER_PHASE_SYNCED) trainer.generation = hello.synced().generation();
  if (trainer.phase == v1::TRAINER_PHASE_HELD) trainer.generation = hello.held().generation();
  worker.trainer = trainer;
  worker.condition.clear();
  if (!IsGenerationAlive() || !rank.has_value()) return;
  // Another stream to a member: what was under way in the old one may be lost.
  if (trainer.phase != known->phase || trainer.generation != known->generation) {
    return Form(FormingCause::kCommunication,
                fmt::format("{} came back in another state", worker.host));
  }
  if (phase_ == Phase::kRunning) RaiseFlags(pending_flags_ | ending_flag_);
}

void RunMachine::OnWorkerMessage(RunWorker& worker, const v1::WorkerMessage& message) {
  switch (message.kind_case()) {
    case v1::WorkerMessage::kHeartbeat:
      return OnHeartbeat(worker, message.heartbeat());
    case v1::WorkerMessage::kTrainerStarted:
      return OnTrainerStarted(worker, message.trainer_started());
    case v1::WorkerMessage::kTrainerExited:
      return OnTrainerExited(worker, message.trainer_exited());
    case v1::WorkerMessage::kFromTrainer: {
      const v1::FromTrainer& from = message.from_trainer();
      if (from.message().has_report()) return OnReport(from.message().report());
      if (worker.trainer.has_value() && worker.trainer->incarnation == from.incarnation()) {
        OnTrainerMessage(worker, from.message());
      }
      return;
    }
    case v1::WorkerMessage::kLeave:
      return OnLeave(worker, message.leave());
    case v1::WorkerMessage::kHello:
    case v1::WorkerMessage::KIND_NOT_SET:
      return;
  }
}

void RunMachine::OnHeartbeat(RunWorker& worker, const v1::Heartbeat& heartbeat) {
  const double silent_s = heartbeat.trainer_silent_seconds();
  if (!(silent_s >= 0 && silent_s < 1e9)) return;  // also for NaN
  if (!worker.trainer.has_value() ||
      worker.trainer->incarnation != heartbeat.trainer_incarnation()) {
    return;
  }
  RunTrainer& trainer = *worker.trainer;
  // The supervisor knows whether it is the trainer or the way to us that is slow. Time in which the
  // machine was suspended is not held against the trainer.
  const auto silence =
      std::chrono::duration_cast<MonotonicDuration>(std::chrono::duration<double>(silent_s));
  trainer.heard_at = std::max(trainer.heard_at, now_ - silence);
  if (!heartbeat.has_activity()) return;
  trainer.activity = heartbeat.activity();
  if (heartbeat.activity().generation() == generation_ && RankOf(worker).has_value()) {
    NoteProgress(heartbeat.activity().iteration());
  }
}

void RunMachine::OnTrainerMessage(RunWorker& worker, const v1::TrainerMessage& message) {
  RunTrainer& trainer = *worker.trainer;
  switch (message.kind_case()) {
    case v1::TrainerMessage::kParked:
      return OnParked(worker, message.parked());
    case v1::TrainerMessage::kSynced:
      return OnSynced(worker, message.synced());
    case v1::TrainerMessage::kHeld:
      return OnHeld(worker, message.held());
    case v1::TrainerMessage::kCommunicationFailed:
      return OnCommunicationFailed(worker, message.communication_failed());
    case v1::TrainerMessage::kShardWritten:
      return OnShardWritten(message.shard_written());
    case v1::TrainerMessage::kFailed:
      trainer.failure = message.failed().message();
      return OnFailure(worker, message.failed().exit_code());
    case v1::TrainerMessage::kActivity:
    case v1::TrainerMessage::kReport:
    case v1::TrainerMessage::kBatchBegun:
    case v1::TrainerMessage::KIND_NOT_SET:
      return;
  }
}

void RunMachine::OnCommunicationFailed(const RunWorker& worker,
                                       const v1::CommunicationFailed& failed) {
  const std::optional<int> rank = RankOf(worker);
  // Members that come back to a restarted coordinator may have lost one another meanwhile.
  const bool may_run = IsGenerationAlive() || phase_ == Phase::kRecovering;
  if (failed.generation() != generation_ || !may_run || !rank.has_value()) return;
  if (failed.has_state_difference()) return OnStateDifference(failed.state_difference());
  for (const int32_t peer : failed.unreachable_ranks()) {
    if (peer < 0 || static_cast<size_t>(peer) >= members_.size()) continue;
    severed_.Note(worker.id, members_[static_cast<size_t>(peer)].worker_id, now_);
  }
  Form(FormingCause::kCommunication,
       fmt::format("rank {} ({}): {}", *rank, worker.host, failed.message()));
}

void RunMachine::OnFailure(RunWorker& worker, int exit_code) {
  const RunTrainer& trainer = *worker.trainer;
  const bool ends_start = !trainer.IsReady() && exit_code == static_cast<int>(ExitCode::kStorage);
  if (!EndsTheRun(exit_code) && !ends_start) return;
  // A newcomer that cannot work here is no reason to end a run that works.
  const bool others_work =
      was_ever_assigned_ && !RankOf(worker).has_value() &&
      std::any_of(members_.begin(), members_.end(), [&](const GenerationMember& member) {
        const auto entry = workers_.find(member.worker_id);
        return member.worker_id != worker.id && entry != workers_.end() &&
               entry->second.HasLiveTrainer();
      });
  if (others_work) {
    worker.is_given_up = true;
    return;
  }
  Fail(exit_code, fmt::format("{}: {}", worker.host,
                              trainer.failure.empty() ? last_log_lines_ : trainer.failure));
}

void RunMachine::OnReport(const v1::Report& report) {
  if (report.has_step()) {
    const v1::StepReport& step = report.step();
    if (step.generation() >= last_step_.generation()) last_step_ = step;
    if (step.generation() == generation_) NoteProgress(step.step());
  }
  if (!report.has_event() || report.event().kind() != "evaluation") return;
  for (const v1::Fact& fact : report.event().facts()) {
    if (fact.key() == "step") last_evaluation_step_ = fact.integer();
  }
}

void RunMachine::OnTrainerStarted(RunWorker& worker, const v1::TrainerStarted& started) {
  if (worker.trainer.has_value()) {
    if (worker.trainer->incarnation >= started.incarnation()) return;
    TrainerGone(worker, FormingCause::kTrainerKilled, "was replaced by another process");
  }
  RunTrainer trainer;
  trainer.incarnation = started.incarnation();
  trainer.pid = started.pid();
  trainer.heard_at = now_;
  worker.trainer = std::move(trainer);
  worker.start_requested_at.reset();
}

void RunMachine::OnTrainerExited(RunWorker& worker, const v1::TrainerExited& exited) {
  std::string how = exited.signal() != 0 ? fmt::format("was killed by signal {}", exited.signal())
                                         : fmt::format("exited with code {}", exited.exit_code());
  if (!worker.trainer.has_value()) {
    if (worker.start_requested_at.has_value()) {
      TrainerGone(worker, FormingCause::kTrainerCrash, "could not be started: it " + how);
    }
    return;
  }
  const RunTrainer& trainer = *worker.trainer;
  if (trainer.incarnation != exited.incarnation()) return;
  if (trainer.killed_at.has_value()) how = "was killed: " + trainer.kill_reason;
  if (!exited.last_log_lines().empty()) last_log_lines_ = exited.last_log_lines();
  constexpr int kKill = 9, kTerminate = 15;
  const bool from_outside =
      trainer.killed_at.has_value() || exited.signal() == kKill || exited.signal() == kTerminate;
  if (!from_outside && exited.has_batch()) how += "; " + DescribeBatch(exited.batch());
  Record({.kind = "trainer_exited",
          .reason = how,
          .facts = {{"worker", worker.id},
                    {"host", worker.host},
                    {"pid", trainer.pid},
                    {"exit_code", static_cast<int64_t>(exited.exit_code())},
                    {"signal", static_cast<int64_t>(exited.signal())},
                    {"generation", generation_},
                    {"step", step_}}});
  if (exited.signal() == 0) OnFailure(worker, exited.exit_code());
  if (HasEnded()) return;
  TrainerGone(worker, from_outside ? FormingCause::kTrainerKilled : FormingCause::kTrainerCrash,
              how);
}

void RunMachine::OnLeave(RunWorker& worker, const v1::Leave& leave) {
  const std::string reason =
      leave.reason().empty() ? fmt::format("{} leaves", worker.host) : leave.reason();
  if (leave.preempt()) return StartEnding(v1::FLAG_PREEMPT, reason);
  worker.is_leaving = true;
  worker.condition = reason;
}

void RunMachine::OnParked(RunWorker& worker, const v1::Parked& parked) {
  RunTrainer& trainer = *worker.trainer;
  if (parked.generation() < trainer.generation || parked.generation() > generation_) return;
  if (trainer.IsReady() && parked.generation() < trainer.prepared) return;  // a newer one follows
  const bool is_repeated =
      trainer.generation == parked.generation() && trainer.phase > v1::TRAINER_PHASE_PARKED;
  if (is_repeated) return;
  if (!trainer.IsReady()) trainer.ready_since = now_;
  trainer.phase = v1::TRAINER_PHASE_PARKED;
  trainer.generation = parked.generation();
  trainer.parked = parked;
  worker.condition.clear();
}

void RunMachine::OnSynced(RunWorker& worker, const v1::Synced& synced) {
  if (phase_ != Phase::kSyncing || synced.generation() != generation_ ||
      !worker.trainer->IsIn(v1::TRAINER_PHASE_ASSIGNED, generation_)) {
    return;
  }
  worker.trainer->phase = v1::TRAINER_PHASE_SYNCED;
  worker.trainer->synced = synced;
}

void RunMachine::OnHeld(RunWorker& worker, const v1::Held& held) {
  if (phase_ != Phase::kRunning || held.generation() != generation_ ||
      !worker.trainer->IsIn(v1::TRAINER_PHASE_RUNNING, generation_)) {
    return;
  }
  worker.trainer->phase = v1::TRAINER_PHASE_HELD;
  worker.trainer->held = held;
  NoteProgress(held.iteration());
}

void RunMachine::OnConfigured(const ConfiguredRun& run) {
  configured_ = run;
  membership_.virtual_ranks = run.virtual_ranks;
}

void RunMachine::LoseWorker(RunWorker& worker, const std::string& reason) {
  sessions_.erase(worker.session);
  worker.session = 0;
  worker.lost_at = now_;
  worker.start_requested_at.reset();
  worker.condition = "lost: " + reason;
  // Another life of the coordinator may have frightened it away; it will be back.
  worker.wait_until = reattach_until_;
  if (HasEnded()) return;
  if (!worker.is_released) {
    Record({.kind = "worker_lost",
            .reason = reason,
            .facts = {{"worker", worker.id}, {"host", worker.host}, {"step", step_}}});
  }
  const bool is_needed = IsGenerationAlive() && RankOf(worker).has_value();
  const bool was_member = worker.trainer.has_value() && RankOf(worker).has_value();
  DropCheckpointsOf(worker);
  worker.trainer.reset();
  if (is_needed) {
    Form(FormingCause::kWorkerLost, fmt::format("{} was lost: {}", worker.host, reason));
  } else if (phase_ == Phase::kForming && was_member) {
    RefineCause(FormingCause::kWorkerLost, fmt::format("{} was lost: {}", worker.host, reason));
  }
}

void RunMachine::TrainerGone(RunWorker& worker, FormingCause cause, const std::string& reason) {
  const bool was_member = worker.trainer.has_value() && RankOf(worker).has_value();
  DropCheckpointsOf(worker);
  worker.trainer.reset();
  worker.start_requested_at.reset();
  worker.is_distrusted = false;
  worker.budget.OnFailure(options_.restarts, now_);
  worker.condition = fmt::format("{}, {}", reason, worker.IsGivenUp() ? "given up" : "restarting");
  // Who must wait before its restart is not waited for.
  worker.wait_until = now_ + options_.rejoin_wait;
  if (worker.budget.restart_at() > now_ + options_.rejoin_wait / 2) worker.wait_until = now_;
  if (worker.IsGivenUp()) {
    Record({.kind = "worker_given_up",
            .reason = worker.condition,
            .facts = {{"worker", worker.id}, {"host", worker.host}}});
  }
  if (!was_member) return;
  const std::string text = fmt::format("the trainer on {} {}", worker.host, reason);
  if (IsGenerationAlive()) {
    Form(cause, text);
  } else if (phase_ == Phase::kForming) {
    RefineCause(cause, text);
  }
}

}  // namespace albef
