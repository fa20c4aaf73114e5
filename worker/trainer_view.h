// What a supervisor knows of its trainer from the messages that passed through it, and what a
// coordinator must hear of it when a session begins.
//
// A generation counts from the trainer's answer to its prepare, not from the prepare itself: a
// coordinator that hears of a prepare without an answer would take the trainer to be at work in
// that generation. It prepares it once more instead, which changes nothing. Assign, Run and Resume
// count when they are passed on, because a trainer obeys in order.
//
// Pure: no clock, no I/O. For one thread at a time.
#ifndef ALBEF_WORKER_TRAINER_VIEW_H_
#define ALBEF_WORKER_TRAINER_VIEW_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "proto/coordinator.pb.h"

namespace albef {

class TrainerView {
 public:
  using Time = std::chrono::steady_clock::time_point;

  void OnStarted(int64_t incarnation, int64_t pid, Time now);
  void OnExited();

  // From the trainer that is alive, in order.
  void OnMessage(const v1::TrainerMessage& message, Time now);
  // Passed on to it, in order.
  void OnControl(const v1::ControlMessage& message);

  bool IsAlive() const { return incarnation_ != 0; }

  // The last batch that it began.
  const std::optional<v1::BatchBegun>& batch() const { return batch_; }
  int64_t incarnation() const { return incarnation_; }  // 0: no trainer is alive
  v1::TrainerPhase phase() const { return phase_; }

  // Since its last activity message, or its start. 0 while none is alive.
  double SilentSeconds(Time now) const;

  // It may be stuck: silent for a while, or in a section for longer than it may be. The coordinator
  // must hear of it soon. Before its first activity message it has all the time of a start.
  bool IsInDoubt(Time now) const;

  void FillHeartbeat(v1::Heartbeat& heartbeat, Time now) const;

  // The fields that are about the trainer.
  void FillHello(v1::Hello& hello) const;

  // What hello has no place for and may have been lost with the session before: a broken
  // communicator that no newer generation has answered yet, and the trainer's last words.
  std::vector<v1::TrainerMessage> Unanswered() const;

 private:
  int64_t incarnation_ = 0;
  int64_t pid_ = 0;
  v1::TrainerPhase phase_ = v1::TRAINER_PHASE_NONE;
  int64_t generation_ = 0;  // that the phase is about
  int64_t prepared_ = 0;    // newest generation that it was told to prepare
  int64_t iteration_ = 0;
  Time heard_at_ = {};
  std::optional<v1::Activity> activity_;
  std::optional<v1::Parked> parked_;
  std::optional<v1::Synced> synced_;
  std::optional<v1::Held> held_;
  std::optional<v1::ShardWritten> shard_written_;
  std::optional<v1::CommunicationFailed> communication_failed_;
  std::optional<v1::Failed> failed_;
  std::optional<v1::BatchBegun> batch_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINER_VIEW_H_
