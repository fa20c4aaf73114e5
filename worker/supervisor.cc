#include "worker/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <utility>
#include <variant>

#include "common/exit_code.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace albef {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTick{100};
constexpr milliseconds kDoubtfulHeartbeat{500};

// The state that End names for a worker that leaves a run which goes on.
constexpr std::string_view kDrained = "DRAINED";

constexpr int Code(ExitCode code) { return static_cast<int>(code); }

sigset_t StopSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2, SIGHUP}) ::sigaddset(&signals, signal);
  return signals;
}

CoordinatorWatch::Options WatchOptions(const Supervisor::Options& options) {
  CoordinatorWatch::Options watch = options.watch;
  watch.is_embedded = options.coordinator.has_value();
  watch.order = options.order;
  return watch;
}

}  // namespace

void Supervisor::BlockSignals() {
  // What is ignored never comes, also not to a descriptor; an inherited "ignore" must not count.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) std::signal(signal, SIG_DFL);
  const sigset_t signals = StopSignals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

Supervisor::Supervisor(Options options)
    : options_(std::move(options)),
      watch_(WatchOptions(options_), std::chrono::steady_clock::now()),
      clock_(std::chrono::steady_clock::now()),
      now_(clock_.Advance(std::chrono::steady_clock::now())) {}

Supervisor::~Supervisor() = default;

int Supervisor::Run() {
  if (const absl::Status status = Prepare(); !status.ok()) {
    spdlog::error("{}", status.message());
    return Code(ExitCodeFor(status));
  }
  FaultPoint("start");
  if (options_.is_first && options_.coordinator.has_value()) StartOwnCoordinator(std::nullopt);
  while (!exit_code_.has_value()) Poll();
  return *exit_code_;
}

absl::Status Supervisor::Prepare() {
  const sigset_t signals = StopSignals();
  signals_ = FileDescriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return ErrnoStatus(errno, "watch signals for", options_.run_dir);
  auto finder = std::make_shared<CoordinatorFinder>(CoordinatorFinder::Options{
      .run_dir = options_.run_dir,
      .external_address = options_.external_address,
      .stale_term = options_.external_address.empty() ? options_.past.newest_term : 0,
      .past_outcome_identity = options_.past.outcome_identity});
  ASSIGN_OR_RETURN(session_, SessionClient::Start({.look = [finder] { return finder->Look(); }}));
  return absl::OkStatus();
}

void Supervisor::Poll() {
  const auto readable = [](int fd) { return pollfd{.fd = fd, .events = POLLIN, .revents = 0}; };
  // A descriptor of −1 is passed over.
  std::array<pollfd, 5> entries = {
      readable(signals_.get()), readable(session_ != nullptr ? session_->event_fd() : -1),
      readable(coordinator_ != nullptr ? coordinator_->exit_fd() : -1),
      readable(trainer_ != nullptr ? trainer_->process().exit_fd() : -1),
      readable(trainer_ != nullptr && !is_trainer_deaf_ ? trainer_->control().fd() : -1)};
  if (trainer_ != nullptr && trainer_->control().has_pending()) entries[4].events |= POLLOUT;
  ::poll(entries.data(), entries.size(), static_cast<int>(kTick.count()));
  now_ = clock_.Advance(std::chrono::steady_clock::now());

  if (entries[0].revents != 0) OnSignals();
  if (exit_code_.has_value()) return;
  if (session_ != nullptr) {
    for (SessionEvent& event : session_->TakeEvents()) OnSessionEvent(event);
  }
  if (trainer_ != nullptr && entries[4].revents != 0) ReadTrainer();
  if (trainer_ != nullptr) ReapTrainer();
  if (coordinator_ != nullptr) ReapCoordinator();
  if (!exit_code_.has_value()) OnTime();
}

// --- signals and time ---

void Supervisor::OnSignals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGHUP) {
      if (is_left_alone_ || !leave_reason_.empty()) continue;
      is_left_alone_ = true;
      leave_at_ = now_;
      spdlog::warn("whoever started this worker is gone, leaving the run");
      SendLeave();
      continue;
    }
    if (!leave_reason_.empty()) {
      if (signal == SIGINT) {
        spdlog::warn("second interrupt, ending at once");
        Finish(Code(ExitCode::kInterrupted));
        return;
      }
      continue;
    }
    leave_reason_ = fmt::format("{} got SIG{}", options_.host, ::sigabbrev_np(signal));
    leave_at_ = now_;
    spdlog::info("asking the run to checkpoint and end reason={}", LogValue(leave_reason_));
    SendLeave();
  }
}

void Supervisor::OnTime() {
  if (stream_ != 0) {
    const milliseconds interval = view_.IsInDoubt(now_)
                                      ? std::min(heartbeat_interval_, kDoubtfulHeartbeat)
                                      : heartbeat_interval_;
    if (now_ - heartbeat_at_ >= interval) {
      heartbeat_at_ = now_;
      v1::WorkerMessage message;
      view_.FillHeartbeat(*message.mutable_heartbeat(), now_);
      Send(std::move(message));
    }
    // It answers hello, and then every heartbeat.
    if (now_ - heard_at_ > options_.silence_limit) {
      session_->Close(stream_, absl::DeadlineExceededError(fmt::format(
                                   "the coordinator has not answered for {:.1f} s",
                                   std::chrono::duration<double>(now_ - heard_at_).count())));
    }
  }
  if (trainer_ != nullptr && is_trainer_deaf_ && !is_trainer_killed_ &&
      now_ - deaf_at_ > options_.trainer_end_limit) {
    spdlog::warn("the trainer has closed its control socket and lives on, killing it");
    is_trainer_killed_ = true;
    trainer_->process().Kill();
  }
  if (end_.has_value()) return CheckEnding();
  WatchCoordinator();
  if (exit_code_.has_value() || end_.has_value() || is_welcomed_) return;
  if (leave_reason_.empty() && !is_left_alone_) return;
  if (now_ - std::max(leave_at_, lost_at_) > options_.leave_limit) {
    spdlog::warn("no coordinator to tell that this worker leaves, ending without it");
    Finish(Code(ExitCode::kPreempted));
  }
}

void Supervisor::WatchCoordinator() {
  const CoordinatorWatch::Decision decision = watch_.Decide(now_);
  switch (decision.action) {
    case CoordinatorWatch::Action::kNone:
      return;
    case CoordinatorWatch::Action::kStart:
      return StartOwnCoordinator(decision.after_term);
    case CoordinatorWatch::Action::kRunEnded: {
      spdlog::info("the run has ended while this worker was not connected");
      v1::End end;
      end.set_state(decision.ended.state);
      end.set_reason(decision.ended.reason);
      end.set_exit_code(decision.ended.exit_code);
      return OnEnd(end);
    }
    case CoordinatorWatch::Action::kRefused:
      spdlog::error("refused by the coordinator: {}", decision.status.message());
      return Finish(Code(ExitCode::kUsage));
    case CoordinatorWatch::Action::kGiveUp:
      spdlog::error("{}", decision.status.message());
      return Finish(coordinator_exit_code_ == Code(ExitCode::kStorage) ? Code(ExitCode::kStorage)
                                                                       : Code(ExitCode::kOther));
  }
}

void Supervisor::CheckEnding() {
  if (trainer_ != nullptr) {
    if (now_ - end_at_ > options_.trainer_end_limit && !is_trainer_killed_) {
      spdlog::warn("the trainer does not end, killing it");
      is_trainer_killed_ = true;
      trainer_->process().Kill();
    }
    return;
  }
  // The coordinator is to see that nobody of ours is left.
  session_.reset();
  stream_ = 0;
  if (coordinator_ != nullptr && coordinator_->TryReap() == std::nullopt) {
    if (MustOutliveTrainer()) return;
    coordinator_->Kill();
  }
  Finish(end_->exit_code());
}

// The run goes on without this worker, but not without its coordinator, unless others can take
// over; and a run that ends has others to be told.
bool Supervisor::MustOutliveTrainer() const {
  if (end_->state() == kDrained) return options_.run_request.expected_workers() <= 1;
  return now_ - end_at_ <= options_.coordinator_end_limit;
}

void Supervisor::Finish(int exit_code) {
  if (trainer_ != nullptr) trainer_->process().Kill();
  if (coordinator_ != nullptr) coordinator_->Kill();
  exit_code_ = exit_code;
}

// --- a coordinator of our own ---

void Supervisor::StartOwnCoordinator(std::optional<int64_t> after_term) {
  if (coordinator_ != nullptr) {
    spdlog::warn("the coordinator does not answer, replacing it pid={}", coordinator_->pid());
    coordinator_.reset();  // killed
  }
  auto started = StartCoordinator(*options_.coordinator, after_term);
  if (!started.ok()) {
    spdlog::error("{}", started.status().message());
    return Finish(Code(ExitCode::kOther));
  }
  coordinator_ = *std::move(started);
  watch_.OnStarted(coordinator_->pid(), now_);
  spdlog::info("coordinator started pid={}{}", coordinator_->pid(),
               after_term.has_value() ? fmt::format(" after_term={}", *after_term) : "");
}

void Supervisor::ReapCoordinator() {
  const std::optional<ChildExit> exit = coordinator_->TryReap();
  if (!exit.has_value()) return;
  coordinator_.reset();
  if (end_.has_value()) return;
  const std::string how = Describe(*exit);
  if (exit->signal == 0) coordinator_exit_code_ = exit->exit_code;
  const bool is_refused =
      exit->signal == 0 && (exit->exit_code == Code(ExitCode::kUsage) ||
                            (exit->exit_code == Code(ExitCode::kStorage) && !watch_.WasWelcomed()));
  if (is_refused) {
    spdlog::error("the coordinator {}; its message is above", how);
    return Finish(exit->exit_code);
  }
  // These it chooses: somebody else has the term, or the run has ended.
  const bool has_lost = exit->signal == 0 && (exit->exit_code == Code(ExitCode::kDone) ||
                                              exit->exit_code == Code(ExitCode::kPreempted) ||
                                              exit->exit_code == Code(ExitCode::kFailed));
  if (has_lost) {
    spdlog::info("the coordinator of this worker {}", how);
  } else {
    spdlog::warn("the coordinator of this worker {}", how);
  }
  watch_.OnExited(has_lost, how, now_);
}

}  // namespace albef
