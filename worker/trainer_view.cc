#include "worker/trainer_view.h"

#include <algorithm>

namespace albef {

void TrainerView::OnStarted(int64_t incarnation, int64_t pid, Time now) {
  *this = TrainerView();
  incarnation_ = incarnation;
  pid_ = pid;
  phase_ = v1::TRAINER_PHASE_STARTING;
  heard_at_ = now;
}

void TrainerView::OnExited() { *this = TrainerView(); }

void TrainerView::OnMessage(const v1::TrainerMessage& message, Time now) {
  switch (message.kind_case()) {
    case v1::TrainerMessage::kParked: {
      const v1::Parked& parked = message.parked();
      if (parked.generation() < generation_) return;
      phase_ = v1::TRAINER_PHASE_PARKED;
      generation_ = parked.generation();
      iteration_ = parked.iteration();
      parked_ = parked;
      return;
    }
    case v1::TrainerMessage::kSynced:
      if (message.synced().generation() != generation_) return;
      phase_ = v1::TRAINER_PHASE_SYNCED;
      iteration_ = message.synced().iteration();
      synced_ = message.synced();
      return;
    case v1::TrainerMessage::kHeld:
      if (message.held().generation() != generation_) return;
      phase_ = v1::TRAINER_PHASE_HELD;
      iteration_ = message.held().iteration();
      held_ = message.held();
      return;
    case v1::TrainerMessage::kActivity:
      heard_at_ = now;
      activity_ = message.activity();
      iteration_ = std::max(iteration_, message.activity().iteration());
      return;
    case v1::TrainerMessage::kShardWritten:
      shard_written_ = message.shard_written();
      return;
    case v1::TrainerMessage::kCommunicationFailed:
      communication_failed_ = message.communication_failed();
      return;
    case v1::TrainerMessage::kFailed:
      failed_ = message.failed();
      return;
    case v1::TrainerMessage::kBatchBegun:
      batch_ = message.batch_begun();
      return;
    case v1::TrainerMessage::kReport:
    case v1::TrainerMessage::KIND_NOT_SET:
      return;
  }
}

void TrainerView::OnControl(const v1::ControlMessage& message) {
  if (!IsAlive()) return;
  switch (message.kind_case()) {
    case v1::ControlMessage::kPrepare:
      prepared_ = std::max(prepared_, message.prepare().generation());
      if (communication_failed_ && communication_failed_->generation() < prepared_) {
        communication_failed_.reset();
      }
      return;
    case v1::ControlMessage::kAssign:
      if (message.assign().generation() != generation_ || phase_ != v1::TRAINER_PHASE_PARKED) {
        return;
      }
      phase_ = v1::TRAINER_PHASE_ASSIGNED;
      return;
    case v1::ControlMessage::kRun:
      if (message.run().generation() != generation_ || phase_ != v1::TRAINER_PHASE_SYNCED) return;
      phase_ = v1::TRAINER_PHASE_RUNNING;
      return;
    case v1::ControlMessage::kResume:
      if (message.resume().generation() != generation_ || phase_ != v1::TRAINER_PHASE_HELD) return;
      phase_ = v1::TRAINER_PHASE_RUNNING;
      return;
    case v1::ControlMessage::kRaiseFlags:
    case v1::ControlMessage::kEnd:
    case v1::ControlMessage::KIND_NOT_SET:
      return;
  }
}

double TrainerView::SilentSeconds(Time now) const {
  if (!IsAlive()) return 0;
  return std::max(std::chrono::duration<double>(now - heard_at_).count(), 0.0);
}

bool TrainerView::IsInDoubt(Time now) const {
  constexpr double kSilentSeconds = 1;
  if (!activity_.has_value()) return false;
  const double limit_s = activity_->section_limit_seconds();
  return SilentSeconds(now) > kSilentSeconds ||
         (limit_s > 0 && activity_->section_seconds() > limit_s);
}

void TrainerView::FillHeartbeat(v1::Heartbeat& heartbeat, Time now) const {
  heartbeat.set_trainer_silent_seconds(SilentSeconds(now));
  heartbeat.set_trainer_incarnation(incarnation_);
  if (activity_.has_value()) *heartbeat.mutable_activity() = *activity_;
}

void TrainerView::FillHello(v1::Hello& hello) const {
  hello.set_trainer_incarnation(incarnation_);
  hello.set_trainer_pid(pid_);
  hello.set_phase(phase_);
  hello.set_generation(generation_);
  hello.set_iteration(iteration_);
  if (shard_written_) *hello.mutable_shard_written() = *shard_written_;
  switch (phase_) {
    case v1::TRAINER_PHASE_PARKED:
      *hello.mutable_parked() = *parked_;
      return;
    case v1::TRAINER_PHASE_ASSIGNED:
      *hello.mutable_parked() = *parked_;
      return;
    case v1::TRAINER_PHASE_SYNCED:
    case v1::TRAINER_PHASE_RUNNING:
      if (synced_) *hello.mutable_synced() = *synced_;
      return;
    case v1::TRAINER_PHASE_HELD:
      *hello.mutable_held() = *held_;
      return;
    default:
      return;
  }
}

std::vector<v1::TrainerMessage> TrainerView::Unanswered() const {
  std::vector<v1::TrainerMessage> messages;
  if (communication_failed_) {
    *messages.emplace_back().mutable_communication_failed() = *communication_failed_;
  }
  if (failed_) *messages.emplace_back().mutable_failed() = *failed_;
  return messages;
}

}  // namespace albef
