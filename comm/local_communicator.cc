#include "comm/local_communicator.h"

#include <array>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace albef {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

struct Pending {
  int64_t index = 0;  // of the operation on its lane
  std::shared_ptr<Operation> operation;
  torch::Tensor tensor;
};

// One direction of a pair's lane.
struct Mailbox {
  std::deque<Pending> sends;
  std::deque<Pending> receives;
};

// An operation that its rank holds back.
struct Held {
  Lane lane;
  int64_t index;
  std::shared_ptr<Operation> operation;
  std::vector<Communicator::Transfer> sends;
  std::vector<Communicator::Transfer> receives;
};

struct Member {
  absl::Status failure;
  int64_t operations = 0;
  std::array<int64_t, kNumLanes> operations_by_lane = {};
  int64_t fail_at = kNever;
  absl::Status fail_with;
  int64_t hold_at = kNever;
  std::vector<Held> held;
  Communicator::Traffic traffic;
};

}  // namespace

struct LocalGroup::State {
  explicit State(int size) : members(static_cast<size_t>(size)) {}

  Member& member(int rank) { return members[static_cast<size_t>(rank)]; }

  // Hands the transfers to the mailboxes and copies what has both ends. Like all below, with the
  // mutex held.
  void Post(int rank, const Held& work) {
    for (const auto& [peer, tensor] : work.sends) {
      if (!member(rank).failure.ok()) return;
      mailboxes[{rank, peer, work.lane}].sends.push_back({work.index, work.operation, tensor});
      Match(rank, peer, work.lane);
    }
    for (const auto& [peer, tensor] : work.receives) {
      if (!member(rank).failure.ok()) return;
      mailboxes[{peer, rank, work.lane}].receives.push_back({work.index, work.operation, tensor});
      Match(peer, rank, work.lane);
    }
  }

  void Match(int from, int to, Lane lane) {
    Mailbox& mailbox = mailboxes[{from, to, lane}];
    while (!mailbox.sends.empty() && !mailbox.receives.empty()) {
      const Pending send = std::move(mailbox.sends.front());
      const Pending receive = std::move(mailbox.receives.front());
      mailbox.sends.pop_front();
      mailbox.receives.pop_front();
      const size_t bytes = send.tensor.nbytes();
      if (receive.index != send.index || receive.tensor.nbytes() != bytes) {
        const absl::Status mismatch = absl::InternalError(absl::StrCat(
            "peer rank ", from, ": sends ", bytes, " bytes for ", send.operation->name(),
            ", which is operation ", send.index, " of this lane, where ", receive.tensor.nbytes(),
            " are expected for ", receive.operation->name(), ", which is ", receive.index));
        send.operation->Fail(mismatch);
        receive.operation->Fail(mismatch);
        Lose(to, mismatch);
        return;
      }
      std::memcpy(receive.tensor.data_ptr(), send.tensor.data_ptr(), bytes);
      member(from).traffic.bytes_sent += static_cast<int64_t>(bytes);
      member(to).traffic.bytes_received += static_cast<int64_t>(bytes);
      send.operation->TransferDone(to);
      receive.operation->TransferDone(from);
    }
  }

  // The rank is gone for `failure`, and all others lose it.
  void Lose(int rank, const absl::Status& failure) {
    if (!member(rank).failure.ok()) return;
    End(rank, failure);
    for (int peer = 0; peer < static_cast<int>(members.size()); ++peer) {
      if (!member(peer).failure.ok()) continue;
      End(peer, absl::UnavailableError(absl::StrCat("peer rank ", rank, ": connection closed")));
    }
  }

  // Fails the rank's operations, and withdraws their tensors.
  void End(int rank, const absl::Status& failure) {
    member(rank).failure = failure;
    for (const Held& held : std::exchange(member(rank).held, {})) held.operation->Fail(failure);
    for (auto& [key, mailbox] : mailboxes) {
      const auto& [from, to, lane] = key;
      if (from == rank) {
        for (const Pending& send : std::exchange(mailbox.sends, {})) send.operation->Fail(failure);
      }
      if (to == rank) {
        for (const Pending& receive : std::exchange(mailbox.receives, {})) {
          receive.operation->Fail(failure);
        }
      }
    }
  }

  std::mutex mutex;
  std::condition_variable started;
  std::vector<Member> members;
  std::map<std::tuple<int, int, Lane>, Mailbox> mailboxes;  // by sender, receiver, lane
};

class LocalGroup::Rank : public Communicator {
 public:
  Rank(State* state, int rank) : state_(state), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(state_->members.size()); }
  torch::Device device() const override { return torch::kCPU; }

  Work Exchange(Lane lane, std::string name, std::vector<Transfer> sends,
                std::vector<Transfer> receives) override {
    for (auto* transfers : {&sends, &receives}) {
      if (absl::Status status = Check(*transfers); !status.ok()) {
        return Work::Failed(std::move(name), status);
      }
      std::erase_if(*transfers, [](const Transfer& each) { return each.tensor.nbytes() == 0; });
    }
    std::vector<int> peers;
    for (const Transfer& each : sends) peers.push_back(each.peer);
    for (const Transfer& each : receives) peers.push_back(each.peer);
    const std::lock_guard lock(state_->mutex);
    Member& member = state_->member(rank_);
    const Held work{lane, member.operations_by_lane[static_cast<size_t>(lane)]++,
                    std::make_shared<Operation>(std::move(name), peers), std::move(sends),
                    std::move(receives)};
    const int64_t index = member.operations++;
    if (index >= member.fail_at) state_->Lose(rank_, member.fail_with);
    if (!member.failure.ok()) {
      work.operation->Fail(member.failure);
    } else if (index >= member.hold_at) {
      member.held.push_back(work);
    } else {
      state_->Post(rank_, work);
    }
    state_->started.notify_all();
    return Work(work.operation);
  }

  void Abort(absl::Status reason) override {
    const std::lock_guard lock(state_->mutex);
    state_->Lose(rank_, reason);
  }

  absl::Status status() const override {
    const std::lock_guard lock(state_->mutex);
    return state_->member(rank_).failure;
  }

  Traffic traffic() const override {
    const std::lock_guard lock(state_->mutex);
    return state_->member(rank_).traffic;
  }

 private:
  State* const state_;
  const int rank_;
};

LocalGroup::LocalGroup(int size) : state_(std::make_unique<State>(size)) {
  for (int rank = 0; rank < size; ++rank) {
    ranks_.push_back(std::make_unique<Rank>(state_.get(), rank));
  }
}

LocalGroup::~LocalGroup() = default;

Communicator& LocalGroup::communicator(int rank) { return *ranks_[static_cast<size_t>(rank)]; }

void LocalGroup::FailAt(int rank, int64_t operation, absl::Status status) {
  const std::lock_guard lock(state_->mutex);
  state_->member(rank).fail_at = operation;
  state_->member(rank).fail_with = std::move(status);
}

void LocalGroup::HoldAt(int rank, int64_t operation) {
  const std::lock_guard lock(state_->mutex);
  state_->member(rank).hold_at = operation;
}

void LocalGroup::Release(int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->member(rank).hold_at = kNever;
  for (const Held& held : std::exchange(state_->member(rank).held, {})) {
    state_->Post(rank, held);
  }
}

void LocalGroup::AwaitOperation(int rank, int64_t operation) {
  std::unique_lock lock(state_->mutex);
  state_->started.wait(lock, [&] { return state_->member(rank).operations > operation; });
}

}  // namespace albef
