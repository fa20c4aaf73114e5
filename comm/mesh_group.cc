#include "comm/mesh_group.h"

#include <algorithm>
#include <utility>

#include "comm/mesh_group_state.h"

namespace albef {
namespace {

// How long a rank that leaves waits for its peers to have received everything.
constexpr std::chrono::seconds kFarewellPatience{1};

}  // namespace

std::shared_ptr<MeshGroupState> MeshGroupState::Create(const MeshMembership& membership) {
  const std::shared_ptr<MeshGroupState> state(new MeshGroupState(membership));
  state->links_.resize(membership.members.size());
  for (int peer = 0; peer < state->size(); ++peer) {
    if (peer == state->rank()) continue;
    for (int lane = 0; lane < kNumLanes; ++lane) {
      state->links_[static_cast<size_t>(peer)].push_back(std::make_shared<MeshLink>(
          state, peer, membership.members[static_cast<size_t>(peer)].address));
    }
  }
  return state;
}

Work MeshGroupState::Exchange(Lane lane, std::string name, std::vector<MeshGroup::Send> sends,
                              std::vector<MeshGroup::Receive> receives) {
  const uint64_t index = next_operation_[static_cast<size_t>(lane)]++;
  if (const absl::Status failure = status(); !failure.ok()) {
    return Work::Failed(std::move(name), failure);
  }
  std::erase_if(sends, [](const auto& each) { return each.bytes.empty(); });
  std::erase_if(receives, [](const auto& each) { return each.bytes.empty(); });
  std::vector<int> peers;
  for (const auto& each : sends) peers.push_back(each.peer);
  for (const auto& each : receives) peers.push_back(each.peer);
  const auto operation = std::make_shared<Operation>(std::move(name), peers);
  for (auto& each : receives) {
    link(each.peer, lane)
        ->Post(MeshLink::Incoming{operation, index, each.bytes, std::move(each.owner)});
  }
  for (auto& each : sends) {
    link(each.peer, lane)
        ->Post(MeshLink::Outgoing{operation, index, each.bytes, std::move(each.owner)});
  }
  return Work(operation);
}

void MeshGroupState::Fail(const absl::Status& reason) {
  absl::Status failure;
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = reason;
    failure = failure_;
  }
  // Also where another thread has begun this already: only then is all memory released.
  for (MeshLink* each : Links()) each->Fail(failure);
  Notify();
}

absl::Status MeshGroupState::status() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool MeshGroupState::Connected() const {
  return std::ranges::all_of(Links(), [](const MeshLink* each) { return each->Attached(); });
}

void MeshGroupState::Notify() {
  const std::lock_guard lock(mutex_);
  ++changes_;
  changed_.notify_all();
}

int64_t MeshGroupState::AwaitChange(int64_t seen, std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [&] { return changes_ != seen; });
  return changes_;
}

void MeshGroupState::Close() {
  const std::vector<MeshLink*> links = Links();
  if (status().ok()) {
    for (MeshLink* each : links) each->Leave();
  }
  const auto closed = [&] {
    return std::ranges::all_of(links, [](const MeshLink* each) { return each->Closed(); });
  };
  const auto deadline = std::chrono::steady_clock::now() + kFarewellPatience;
  int64_t seen = -1;
  while (status().ok() && std::chrono::steady_clock::now() < deadline) {
    seen = AwaitChange(seen, deadline);
    if (closed()) break;
  }
  Fail(absl::CancelledError("this rank has left"));
}

int64_t MeshGroupState::bytes_sent() const {
  int64_t bytes = 0;
  for (const MeshLink* each : Links()) bytes += each->bytes_sent();
  return bytes;
}

int64_t MeshGroupState::bytes_received() const {
  int64_t bytes = 0;
  for (const MeshLink* each : Links()) bytes += each->bytes_received();
  return bytes;
}

std::vector<MeshLink*> MeshGroupState::Links() const {
  std::vector<MeshLink*> links;
  for (const auto& lanes : links_) {
    for (const auto& each : lanes) links.push_back(each.get());
  }
  return links;
}

MeshGroup::MeshGroup(std::shared_ptr<MeshGroupState> state) : state_(std::move(state)) {}

MeshGroup::~MeshGroup() { state_->Close(); }

int MeshGroup::rank() const { return state_->rank(); }
int MeshGroup::size() const { return state_->size(); }

Work MeshGroup::Exchange(Lane lane, std::string name, std::vector<Send> sends,
                         std::vector<Receive> receives) {
  return state_->Exchange(lane, std::move(name), std::move(sends), std::move(receives));
}

void MeshGroup::Abort(absl::Status reason) { state_->Fail(reason); }

absl::Status MeshGroup::status() const { return state_->status(); }

int64_t MeshGroup::bytes_sent() const { return state_->bytes_sent(); }
int64_t MeshGroup::bytes_received() const { return state_->bytes_received(); }

}  // namespace albef
