#include "worker/inbox.h"

#include <algorithm>

namespace albef {
namespace {

constexpr uint32_t kCheckpoint = v1::FLAG_CHECKPOINT;

}  // namespace

bool Inbox::Put(const v1::ControlMessage& message) {
  const std::lock_guard lock(mutex_);
  switch (message.kind_case()) {
    case v1::ControlMessage::kPrepare:
      if (message.prepare().generation() <= orders_.prepared) return false;
      orders_ = {.prepared = message.prepare().generation(), .is_ended = orders_.is_ended};
      checkpoint_step_ = -1;
      is_held_ = false;
      break;
    case v1::ControlMessage::kAssign:
      if (message.assign().generation() != orders_.prepared) return false;
      orders_.assign = message.assign();
      break;
    case v1::ControlMessage::kRun:
      if (message.run().generation() != orders_.prepared) return false;
      orders_.is_run = true;
      break;
    case v1::ControlMessage::kResume:
      if (message.resume().generation() != orders_.prepared) return false;
      orders_.is_resumed = true;
      is_held_ = false;
      break;
    case v1::ControlMessage::kRaiseFlags: {
      const v1::RaiseFlags& raise = message.raise_flags();
      uint32_t flags = raise.flags();
      if (flags & kCheckpoint) {
        orders_.checkpoint_from = std::max(orders_.checkpoint_from, raise.checkpoint_from());
        if (!is_held_ && orders_.checkpoint_from <= checkpoint_step_) flags &= ~kCheckpoint;
      }
      orders_.flags |= flags;
      break;
    }
    case v1::ControlMessage::kEnd:
      orders_.is_ended = true;
      break;
    case v1::ControlMessage::KIND_NOT_SET:
      return false;
  }
  changed_.notify_all();
  return true;
}

void Inbox::Close() {
  const std::lock_guard lock(mutex_);
  orders_.is_ended = true;
  changed_.notify_all();
}

Orders Inbox::Await(const std::function<bool(const Orders&)>& is_enough) const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return is_enough(orders_); });
  return orders_;
}

Orders Inbox::Now() const {
  const std::lock_guard lock(mutex_);
  return orders_;
}

void Inbox::Lower(uint32_t flags) {
  const std::lock_guard lock(mutex_);
  orders_.flags &= ~flags;
}

void Inbox::CheckpointTaken(int64_t step) {
  const std::lock_guard lock(mutex_);
  checkpoint_step_ = step;
  if (orders_.checkpoint_from <= step) orders_.flags &= ~kCheckpoint;
}

void Inbox::BeginHold() {
  const std::lock_guard lock(mutex_);
  orders_.is_resumed = false;
  is_held_ = true;
}

}  // namespace albef
