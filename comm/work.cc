#include "comm/work.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace albef {

Operation::Operation(std::string name, std::span<const int> peers)
    : name_(std::move(name)), num_pending_(static_cast<int64_t>(peers.size())) {
  for (const int peer : peers) {
    const auto index = static_cast<size_t>(peer);
    if (pending_.size() <= index) pending_.resize(index + 1);
    ++pending_[index];
  }
}

void Operation::TransferDone(int peer) {
  const std::lock_guard lock(mutex_);
  --pending_[static_cast<size_t>(peer)];
  if (--num_pending_ == 0) ended_.notify_all();
}

void Operation::Fail(const absl::Status& failure) {
  const std::lock_guard lock(mutex_);
  if (num_pending_ == 0 || !failure_.ok()) return;
  failure_ = absl::Status(failure.code(), absl::StrCat(name_, ": ", failure.message()));
  ended_.notify_all();
}

bool Operation::Done() const {
  const std::lock_guard lock(mutex_);
  return num_pending_ == 0 || !failure_.ok();
}

absl::Status Operation::Wait(Deadline deadline) const {
  std::unique_lock lock(mutex_);
  const auto ended = [this] { return num_pending_ == 0 || !failure_.ok(); };
  if (!deadline) {
    ended_.wait(lock, ended);
  } else if (!ended_.wait_until(lock, *deadline, ended)) {
    return absl::DeadlineExceededError(absl::StrCat(name_, ": still waiting for rank ",
                                                    absl::StrJoin(PendingPeersLocked(), ", ")));
  }
  return failure_;
}

std::vector<int> Operation::PendingPeers() const {
  const std::lock_guard lock(mutex_);
  return failure_.ok() ? PendingPeersLocked() : std::vector<int>();
}

std::vector<int> Operation::PendingPeersLocked() const {
  std::vector<int> peers;
  for (size_t peer = 0; peer < pending_.size(); ++peer) {
    if (pending_[peer] > 0) peers.push_back(static_cast<int>(peer));
  }
  return peers;
}

Work Work::Failed(std::string name, const absl::Status& failure) {
  const int peers[] = {0};
  const auto operation = std::make_shared<Operation>(std::move(name), peers);
  operation->Fail(failure);
  return Work(operation);
}

}  // namespace albef
