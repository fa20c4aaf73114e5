#include "comm/nccl_lane.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace albef {
namespace {

// Calls between NCCL's group_start and group_end; it takes 2048 at most.
constexpr int kMaxCallsPerGroup = 1024;

// While something is under way the thread looks again after a sixteenth of the time it has waited
// already, within these bounds.
constexpr std::chrono::microseconds kShortestPause{20};
constexpr std::chrono::microseconds kLongestPause{1000};
// And otherwise, for the group's failure and errors that NCCL finds on its own.
constexpr std::chrono::milliseconds kIdlePause{20};

// An aborted communicator's kernels end by themselves.
constexpr std::chrono::seconds kDrainPatience{5};

int64_t Bytes(const std::vector<Communicator::Transfer>& transfers) {
  int64_t bytes = 0;
  for (const auto& transfer : transfers) bytes += static_cast<int64_t>(transfer.tensor.nbytes());
  return bytes;
}

}  // namespace

Work NcclLane::Exchange(std::string name, const std::vector<Communicator::Transfer>& sends,
                        const std::vector<Communicator::Transfer>& receives) {
  auto job = std::make_unique<Job>();
  for (const auto& each : sends) job->peers.push_back(each.peer);
  for (const auto& each : receives) job->peers.push_back(each.peer);
  job->operation = std::make_shared<Operation>(std::move(name), job->peers);
  job->groups = Divide(sends, receives);
  return Post(std::move(job));
}

Work NcclLane::Sum(std::string name, const torch::Tensor& values, NcclType type) {
  auto job = std::make_unique<Job>();
  const int rank = options_.group->rank();
  for (int peer = 0; peer < options_.group->size(); ++peer) {
    if (peer != rank) job->peers.push_back(peer);
  }
  // A lone rank waits for itself.
  if (job->peers.empty()) job->peers.push_back(rank);
  job->operation = std::make_shared<Operation>(std::move(name), job->peers);
  job->sum = values;
  job->sum_type = type;
  return Post(std::move(job));
}

Work NcclLane::Post(std::unique_ptr<Job> job) {
  const std::shared_ptr<Operation> operation = job->operation;
  absl::StatusOr<std::unique_ptr<StreamEvent>> start = options_.device->RecordCurrent();
  if (!start.ok()) options_.group->Abort(start.status());
  if (const absl::Status status = options_.group->status(); !status.ok()) {
    operation->Fail(status);
    return Work(operation);
  }
  job->start = *std::move(start);
  const std::lock_guard lock(mutex_);
  if (!failure_.ok()) {
    operation->Fail(failure_);
    return Work(operation);
  }
  queue_.push_back(std::move(job));
  is_woken_ = true;
  changed_.notify_all();
  return Work(operation);
}

// Both ends of a pair count its transfers alike, and all ranks cut them at the same numbers: then
// group after group matches on all ranks.
std::vector<NcclLane::Group> NcclLane::Divide(
    const std::vector<Communicator::Transfer>& sends,
    const std::vector<Communicator::Transfer>& receives) const {
  const int peers = std::max(1, options_.group->size() - 1);
  const auto per_pair = static_cast<size_t>(std::max(1, kMaxCallsPerGroup / 2 / peers));
  std::vector<Group> groups;
  const auto divide = [&](const std::vector<Communicator::Transfer>& transfers,
                          std::vector<Communicator::Transfer> Group::*side) {
    std::vector<size_t> count(static_cast<size_t>(options_.group->size()));
    for (const Communicator::Transfer& each : transfers) {
      const size_t index = count[static_cast<size_t>(each.peer)]++ / per_pair;
      if (groups.size() <= index) groups.resize(index + 1);
      (groups[index].*side).push_back(each);
    }
  };
  divide(sends, &Group::sends);
  divide(receives, &Group::receives);
  return groups;
}

void NcclLane::FailPending(const absl::Status& failure) {
  const std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = failure;
  for (const auto& job : queue_) job->operation->Fail(failure_);
  for (const auto& job : launched_) job->operation->Fail(failure_);
  queue_.clear();
  is_woken_ = true;
  changed_.notify_all();
}

absl::Status NcclLane::AwaitConnected(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const bool in_time = changed_.wait_until(
      lock, deadline, [this] { return is_connected_ || !failure_.ok() || has_ended_; });
  if (!in_time) {
    return absl::DeadlineExceededError(absl::StrCat(
        "NCCL: rank ", options_.group->rank(), " is still not connected with the other ",
        options_.group->size() - 1, "; NCCL_DEBUG=INFO shows what NCCL waits for"));
  }
  return failure_;
}

bool NcclLane::AwaitEnd(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [this] { return has_ended_; });
}

Communicator::Traffic NcclLane::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

void NcclLane::Run() {
  absl::Status status;
  try {
    status = Serve();
  } catch (const std::exception& error) {
    status = absl::InternalError(error.what());
  }
  options_.group->Abort(Named(status));
  FailPending(options_.group->status());
  Release();
}

absl::Status NcclLane::Serve() {
  RETURN_IF_ERROR(options_.device->Enter());
  ASSIGN_OR_RETURN(stream_, options_.device->NewStream());
  NcclConfig config;
  config.blocking = 0;
  in_progress_ = true;
  RETURN_IF_ERROR(Check(options_.nccl.comm_init_rank_config(
      &handle_, options_.group->size(), options_.id, options_.group->rank(), &config)));
  while (true) {
    RETURN_IF_ERROR(options_.group->status());
    ASSIGN_OR_RETURN(const bool has_advanced, Advance());
    ASSIGN_OR_RETURN(const bool has_completed, Complete());
    Pause(has_advanced || has_completed);
  }
}

absl::StatusOr<bool> NcclLane::Advance() {
  NcclResult state = NcclResult::kSuccess;
  RETURN_IF_ERROR(Check(options_.nccl.comm_get_async_error(handle_, &state)));
  if (state == NcclResult::kInProgress) return false;
  RETURN_IF_ERROR(Check(state));
  if (!in_progress_) {
    if (launching_ == nullptr) {
      RETURN_IF_ERROR(TakeJob());
      if (launching_ == nullptr) return false;
    }
    in_progress_ = true;
    RETURN_IF_ERROR(Enqueue(*launching_));
    ++launching_->num_enqueued;
    return true;
  }
  in_progress_ = false;
  if (launching_ == nullptr) {
    const std::lock_guard lock(mutex_);
    is_connected_ = true;
    changed_.notify_all();
  } else if (launching_->num_enqueued >= launching_->groups.size()) {
    ASSIGN_OR_RETURN(launching_->end, stream_->Record());
    launching_ = nullptr;
  }
  return true;
}

absl::Status NcclLane::TakeJob() {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.empty()) return absl::OkStatus();
    launched_.push_back(std::move(queue_.front()));
    queue_.pop_front();
    launching_ = launched_.back().get();
  }
  return stream_->WaitFor(*launching_->start);
}

absl::Status NcclLane::Enqueue(const Job& job) const {
  const NcclApi& nccl = options_.nccl;
  if (job.groups.empty()) {
    void* const values = job.sum.data_ptr();
    return Check(nccl.all_reduce(values, values, static_cast<size_t>(job.sum.numel()), job.sum_type,
                                 NcclReduction::kSum, handle_, stream_->handle()));
  }
  const Group& group = job.groups[job.num_enqueued];
  RETURN_IF_ERROR(Check(nccl.group_start()));
  absl::Status status;
  for (const auto& [peer, tensor] : group.sends) {
    status.Update(Check(nccl.send(tensor.data_ptr(), tensor.nbytes(), NcclType::kInt8, peer,
                                  handle_, stream_->handle())));
  }
  for (const auto& [peer, tensor] : group.receives) {
    status.Update(Check(nccl.receive(tensor.data_ptr(), tensor.nbytes(), NcclType::kInt8, peer,
                                     handle_, stream_->handle())));
  }
  // Also after a failure, or whatever this thread calls next would belong to the group.
  status.Update(Check(nccl.group_end()));
  return status;
}

absl::StatusOr<bool> NcclLane::Complete() {
  bool has_moved = false;
  while (true) {
    Job* oldest = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (!launched_.empty()) oldest = launched_.front().get();
    }
    if (oldest == nullptr || oldest->end == nullptr) return has_moved;
    ASSIGN_OR_RETURN(const bool is_reached, oldest->end->Reached());
    if (!is_reached) return has_moved;
    has_moved = true;
    std::unique_ptr<Job> job;
    {
      const std::lock_guard lock(mutex_);
      job = std::move(launched_.front());
      launched_.pop_front();
      for (const Group& group : job->groups) {
        traffic_.bytes_sent += Bytes(group.sends);
        traffic_.bytes_received += Bytes(group.receives);
      }
    }
    for (const int peer : job->peers) job->operation->TransferDone(peer);
  }
}

void NcclLane::Pause(bool has_moved) {
  const Clock::time_point now = Clock::now();
  if (has_moved) {
    last_move_ = now;
    return;
  }
  std::unique_lock lock(mutex_);
  Clock::duration pause = kIdlePause;
  if (in_progress_ || !launched_.empty()) {
    pause = std::clamp<Clock::duration>((now - last_move_) / 16, kShortestPause, kLongestPause);
  }
  changed_.wait_for(lock, pause, [this] { return is_woken_; });
  is_woken_ = false;
}

absl::Status NcclLane::Check(NcclResult result) const {
  if (result == NcclResult::kInProgress) return absl::OkStatus();
  return NcclStatus(options_.nccl, result, handle_);
}

absl::Status NcclLane::Named(const absl::Status& failure) const {
  const std::lock_guard lock(mutex_);
  if (!is_connected_) {
    return absl::Status(failure.code(), absl::StrCat(failure.message(), " while connecting ",
                                                     options_.group->size(), " ranks"));
  }
  if (launched_.empty()) return failure;
  const Operation& oldest = *launched_.front()->operation;
  return absl::Status(failure.code(),
                      absl::StrCat(failure.message(), " in ", oldest.name(), ", waiting for rank ",
                                   absl::StrJoin(oldest.PendingPeers(), ", ")));
}

void NcclLane::Release() {
  if (handle_ != nullptr) options_.nccl.comm_abort(handle_);
  if (!StreamRunsDry()) {
    spdlog::error("NCCL: the stream of an aborted communicator does not end; its memory is lost");
    // Rather than given to somebody else while it may still be written.
    new std::deque<std::unique_ptr<Job>>(std::move(launched_));
  }
  const std::lock_guard lock(mutex_);
  launched_.clear();
  has_ended_ = true;
  changed_.notify_all();
}

bool NcclLane::StreamRunsDry() const {
  if (stream_ == nullptr) return true;
  // A device that has failed does nothing any more.
  const absl::StatusOr<std::unique_ptr<StreamEvent>> end = stream_->Record();
  if (!end.ok()) return true;
  const Clock::time_point deadline = Clock::now() + kDrainPatience;
  while (Clock::now() < deadline) {
    const absl::StatusOr<bool> is_reached = (*end)->Reached();
    if (!is_reached.ok() || *is_reached) return true;
    std::this_thread::sleep_for(kShortestPause);
  }
  return false;
}

}  // namespace albef
