// Supervisor: what the coordinator and the trainer say.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "worker/supervisor.h"

namespace albef {
namespace {

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

// --- session ---

void Supervisor::OnSessionEvent(SessionEvent& event) {
  std::visit(Overloaded{
                 [&](session_event::Sighted& sighted) {
                   watch_.OnSighting(sighted.sighting, now_);
                   if (run_id_.empty() && options_.coordinator.has_value()) {
                     run_id_ = sighted.sighting.file.run_id;
                   }
                   if (sighted.sighting.address.empty()) NoteTrouble(sighted.sighting.trouble);
                 },
                 [&](session_event::Opened& opened) { OnOpened(opened); },
                 [&](session_event::Received& received) {
                   if (received.stream != stream_) return;
                   heard_at_ = now_;
                   OnCoordinatorMessage(received.message);
                 },
                 [&](session_event::Closed& closed) { OnClosed(closed); },
             },
             event);
}

void Supervisor::NoteTrouble(const std::string& trouble) {
  // Two addresses may be tried in turn.
  constexpr size_t kMaxTroubles = 20;
  if (noted_troubles_.size() >= kMaxTroubles || !noted_troubles_.insert(trouble).second) return;
  spdlog::info("waiting for the coordinator reason={}", LogValue(trouble));
}

void Supervisor::OnOpened(const session_event::Opened& opened) {
  stream_ = opened.stream;
  local_host_ = opened.local_host;
  is_welcomed_ = false;
  heard_at_ = now_;
  heartbeat_at_ = now_;
  SendHello();
  for (v1::TrainerMessage& message : view_.Unanswered()) {
    v1::WorkerMessage outer;
    outer.mutable_from_trainer()->set_incarnation(view_.incarnation());
    *outer.mutable_from_trainer()->mutable_message() = std::move(message);
    Send(std::move(outer));
  }
  for (v1::WorkerMessage& report : backlog_.TakeUnacknowledged(view_.incarnation())) {
    Send(std::move(report));
  }
  SendLeave();
}

void Supervisor::SendHello() {
  v1::WorkerMessage message;
  v1::Hello& hello = *message.mutable_hello();
  hello.set_run_id(run_id_);
  hello.set_worker_id(options_.worker_id);
  hello.set_host(options_.host);
  hello.set_supervisor_pid(::getpid());
  hello.set_order(options_.order);
  hello.set_term(watch_.term());
  *hello.mutable_run_request() = options_.run_request;
  view_.FillHello(hello);
  Send(std::move(message));
}

void Supervisor::SendLeave() {
  const bool is_asked = !leave_reason_.empty();
  if (!is_asked && !is_left_alone_) return;
  v1::WorkerMessage message;
  message.mutable_leave()->set_preempt(is_asked);
  message.mutable_leave()->set_reason(
      is_asked ? leave_reason_ : fmt::format("the launcher of {} is gone", options_.host));
  Send(std::move(message));
}

void Supervisor::Send(v1::WorkerMessage message) {
  if (session_ != nullptr) session_->Send(stream_, std::move(message));
}

void Supervisor::OnClosed(const session_event::Closed& closed) {
  if (closed.stream != 0 && closed.stream != stream_) return;
  watch_.OnClosed(closed.status, now_);
  if (std::exchange(is_welcomed_, false)) {
    lost_at_ = now_;
    noted_troubles_.clear();
    spdlog::warn("the session with the coordinator broke term={} reason={}", watch_.term(),
                 LogValue(std::string(closed.status.message())));
  } else {
    NoteTrouble(std::string(closed.status.message()));
  }
  stream_ = 0;
}

void Supervisor::OnCoordinatorMessage(const v1::CoordinatorMessage& message) {
  switch (message.kind_case()) {
    case v1::CoordinatorMessage::kWelcome:
      return OnWelcome(message.welcome());
    case v1::CoordinatorMessage::kStartTrainer:
      return StartTrainer(message.start_trainer());
    case v1::CoordinatorMessage::kToTrainer:
      return OnControl(message.to_trainer());
    case v1::CoordinatorMessage::kKillTrainer:
      return KillTrainer(message.kill_trainer());
    case v1::CoordinatorMessage::kAcknowledge:
      SetHeartbeatInterval(message.acknowledge().heartbeat_seconds());
      return backlog_.Acknowledge(message.acknowledge().sequence());
    case v1::CoordinatorMessage::KIND_NOT_SET:
      return;
  }
}

void Supervisor::OnWelcome(const v1::Welcome& welcome) {
  is_welcomed_ = true;
  run_id_ = welcome.run_id();
  watch_.OnWelcome(welcome.term(), now_);
  SetHeartbeatInterval(welcome.heartbeat_seconds());
  noted_troubles_.clear();
  spdlog::info("in session with the coordinator run_id={} term={} generation={} trainer={}",
               LogValue(run_id_), welcome.term(), welcome.generation(), view_.incarnation());
  FaultPoint("session");
}

void Supervisor::SetHeartbeatInterval(double seconds) {
  if (!(seconds > 0)) return;  // also for NaN
  // Each is answered: often enough to know whether the coordinator is there.
  const double longest_s = std::chrono::duration<double>(options_.silence_limit).count() / 2;
  heartbeat_interval_ = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(std::min(seconds, longest_s)));
}

void Supervisor::OnEnd(const v1::End& end) {
  if (end_.has_value()) return;
  end_ = end;
  end_at_ = now_;
  spdlog::info("the coordinator ends this worker state={} exit_code={} reason={}", end.state(),
               end.exit_code(), LogValue(end.reason()));
  FaultPoint("shutdown");
  if (trainer_ == nullptr) return;
  v1::ControlMessage message;
  *message.mutable_end() = end;
  trainer_->control().Queue(message).IgnoreError();  // one that cannot hear it is killed
}

// --- trainer ---

void Supervisor::StartTrainer(const v1::StartTrainer& start) {
  if (end_.has_value()) return;
  if (trainer_ == nullptr) {
    auto started = TrainerProcess::Start(
        {.program = options_.trainer_program,
         .run_dir = options_.run_dir,
         .run_id = run_id_,
         .device = start.device().empty() ? options_.run_request.device() : start.device(),
         .action = start.action(),
         .import_path = start.import_path(),
         .order = options_.order,
         .local_rank = options_.local_rank,
         .mesh_host = options_.advertised_host.empty() ? local_host_ : options_.advertised_host,
         .log_name = fmt::format("trainer-{}.log", options_.log_suffix)});
    if (!started.ok()) {
      spdlog::error("{}", started.status().message());
      constexpr int kCannotStart = 127;  // as a shell says it
      v1::WorkerMessage message;
      message.mutable_trainer_exited()->set_exit_code(kCannotStart);
      message.mutable_trainer_exited()->set_last_log_lines(std::string(started.status().message()));
      return Send(std::move(message));
    }
    trainer_ = *std::move(started);
    is_trainer_killed_ = is_trainer_deaf_ = false;
    view_.OnStarted(trainer_->incarnation(), trainer_->process().pid(), now_);
    spdlog::info("trainer started pid={} incarnation={}", trainer_->process().pid(),
                 trainer_->incarnation());
  }
  // Asked for again: the answer was lost.
  v1::WorkerMessage message;
  message.mutable_trainer_started()->set_incarnation(trainer_->incarnation());
  message.mutable_trainer_started()->set_pid(trainer_->process().pid());
  Send(std::move(message));
  FaultPoint("trainer_started");
}

void Supervisor::OnControl(const v1::ToTrainer& to_trainer) {
  if (to_trainer.message().has_end()) return OnEnd(to_trainer.message().end());
  if (trainer_ == nullptr || to_trainer.incarnation() != trainer_->incarnation()) return;
  view_.OnControl(to_trainer.message());
  const absl::Status status = trainer_->control().Queue(to_trainer.message());
  // One that has ended shows as such; one that does not read for so long is of no use.
  if (!status.ok() && absl::IsResourceExhausted(status)) {
    spdlog::error("the trainer does not listen, killing it reason={}",
                  LogValue(std::string(status.message())));
    is_trainer_killed_ = true;
    trainer_->process().Kill();
  }
}

void Supervisor::KillTrainer(const v1::KillTrainer& kill) {
  if (trainer_ == nullptr || kill.incarnation() != trainer_->incarnation()) return;
  const pid_t pid = trainer_->process().pid();
  spdlog::warn("killing the trainer pid={} reason={} threads={}", pid, LogValue(kill.reason()),
               LogValue(DescribeThreads(pid)));
  is_trainer_killed_ = true;
  trainer_->process().Kill();
}

void Supervisor::ReadTrainer() {
  ControlSocket& control = trainer_->control();
  control.Flush().IgnoreError();  // trouble shows when reading, too
  constexpr int kAtOnce = 1000;
  for (int i = 0; i < kAtOnce; ++i) {
    v1::TrainerMessage message;
    const absl::StatusOr<ControlSocket::Received> received =
        control.Receive(message, std::chrono::milliseconds(0));
    if (received.ok() && *received == ControlSocket::Received::kMessage) {
      OnTrainerMessage(std::move(message));
      continue;
    }
    if (received.ok() && *received == ControlSocket::Received::kNothing) return;
    if (!received.ok()) spdlog::warn("{}", received.status().message());
    if (!is_trainer_deaf_) deaf_at_ = now_;
    is_trainer_deaf_ = true;
    return;
  }
}

void Supervisor::OnTrainerMessage(v1::TrainerMessage message) {
  view_.OnMessage(message, now_);
  if (message.has_batch_begun()) return;  // of interest if the trainer dies of it
  if (message.has_activity()) return;     // goes with the next heartbeat
  if (message.has_failed()) {
    spdlog::error("the trainer fails exit_code={} reason={}", message.failed().exit_code(),
                  LogValue(message.failed().message()));
  }
  if (message.has_report()) return Send(backlog_.Add(view_.incarnation(), std::move(message)));
  v1::WorkerMessage outer;
  outer.mutable_from_trainer()->set_incarnation(view_.incarnation());
  *outer.mutable_from_trainer()->mutable_message() = std::move(message);
  Send(std::move(outer));
}

void Supervisor::ReapTrainer() {
  const std::optional<ChildExit> exit = trainer_->process().TryReap();
  if (!exit.has_value()) return;
  // Its last words come before its end.
  while (!is_trainer_deaf_) {
    v1::TrainerMessage message;
    const auto received = trainer_->control().Receive(message, std::chrono::milliseconds(0));
    if (!received.ok() || *received != ControlSocket::Received::kMessage) break;
    OnTrainerMessage(std::move(message));
  }
  const std::string last_lines = trainer_->LastLines();
  const int64_t incarnation = trainer_->incarnation();
  if (end_.has_value()) {
    spdlog::info("the trainer {}", Describe(*exit));
  } else {
    spdlog::warn("the trainer {} incarnation={}", Describe(*exit), incarnation);
  }
  trainer_.reset();
  v1::WorkerMessage message;
  v1::TrainerExited& exited = *message.mutable_trainer_exited();
  if (view_.batch().has_value()) *exited.mutable_batch() = *view_.batch();
  view_.OnExited();
  exited.set_incarnation(incarnation);
  exited.set_exit_code(exit->exit_code);
  exited.set_signal(exit->signal);
  exited.set_last_log_lines(last_lines);
  Send(std::move(message));
}

}  // namespace albef
