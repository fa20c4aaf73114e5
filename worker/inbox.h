// What the coordinator wants of this trainer, as far as it has not been done yet.
//
// Messages come one by one; what counts is where they lead: a newer prepare makes everything older
// void, and the newest of each kind is all that matters. The reading thread puts them in, the
// training thread waits for what it can act on. Thread-safe.
#ifndef ALBEF_WORKER_INBOX_H_
#define ALBEF_WORKER_INBOX_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "proto/control.pb.h"

namespace albef {

struct Orders {
  int64_t prepared = 0;                   // newest generation to prepare for
  std::optional<v1::Assign> assign = {};  // of that generation, once it is given
  bool is_run = false;                    // the assigned generation shall run
  bool is_resumed = false;                // a held one shall go on
  uint32_t flags = 0;                     // to raise at the gate
  int64_t checkpoint_from = 0;            // a checkpoint of this step or later serves its flag
  bool is_ended = false;                  // the run is over, or the supervisor gone
};

class Inbox {
 public:
  // False for a message of an older generation, which changes nothing.
  bool Put(const v1::ControlMessage& message);

  // Nothing will come any more.
  void Close();

  // The orders as they are as soon as `is_enough` says so of them.
  Orders Await(const std::function<bool(const Orders&)>& is_enough) const;

  Orders Now() const;

  // `flags` were served.
  void Lower(uint32_t flags);
  // A checkpoint after `step` iterations was taken: who asks later for one that it serves is late.
  void CheckpointTaken(int64_t step);
  // A hold begins: an earlier resume is spent.
  void BeginHold();

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_.
  Orders orders_;
  int64_t checkpoint_step_ = -1;  // of the newest checkpoint taken in the prepared generation
  bool is_held_ = false;
};

}  // namespace albef

#endif  // ALBEF_WORKER_INBOX_H_
