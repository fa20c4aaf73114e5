// Handle of an operation between ranks, and the state it shares with whoever carries it out.
//
// A wait ends when all transfers of the operation are done, when its communicator fails or is
// aborted, or at the caller's deadline; there is no other clock in it. All methods may be called
// from any thread.
#ifndef ALBEF_COMM_WORK_H_
#define ALBEF_COMM_WORK_H_

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace albef {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

// One operation of one rank, as its communicator sees it. It ends once: with OK when as many
// transfers are done as were announced, else with the first failure.
class Operation {
 public:
  // `peers` holds the other end of every transfer, repeated where there are several.
  Operation(std::string name, std::span<const int> peers);

  const std::string& name() const { return name_; }

  void TransferDone(int peer);

  // Ends the operation with `failure` under its name, unless it has ended already.
  void Fail(const absl::Status& failure);

  bool Done() const;
  absl::Status Wait(Deadline deadline) const;
  std::vector<int> PendingPeers() const;

 private:
  std::vector<int> PendingPeersLocked() const;

  const std::string name_;
  mutable std::mutex mutex_;
  mutable std::condition_variable ended_;
  std::vector<int> pending_;  // transfers by peer
  int64_t num_pending_ = 0;
  absl::Status failure_;
};

// What the caller of an operation holds. Copies refer to the same operation, so another thread may
// watch what this one waits for. Dropping it neither ends nor cancels anything.
class Work {
 public:
  explicit Work(std::shared_ptr<const Operation> operation) : operation_(std::move(operation)) {}

  // An operation that has failed before it began.
  static Work Failed(std::string name, const absl::Status& failure);

  // OK: what was to be received is there, and what was sent may be overwritten. An error names
  // operation and peer; it ends the communicator too. DEADLINE_EXCEEDED names the peers that are
  // missing and ends only this wait.
  absl::Status Wait(Deadline deadline = std::nullopt) const { return operation_->Wait(deadline); }

  bool Done() const { return operation_->Done(); }

  // Ranks with transfers outstanding, ascending.
  std::vector<int> PendingPeers() const { return operation_->PendingPeers(); }

 private:
  std::shared_ptr<const Operation> operation_;
};

}  // namespace albef

#endif  // ALBEF_COMM_WORK_H_
