#include "tests/comm/fake_nccl.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace albef {
namespace {

struct Communicator;

struct Transfer {
  bool is_send;
  int peer;
  std::byte* data;
  size_t bytes;
};

struct Task;

struct Event {
  bool is_reached = false;
};

// What a stream holds: an operation, an event to reach, or one to wait for.
struct Entry {
  std::shared_ptr<Task> task = nullptr;
  std::shared_ptr<Event> reach = nullptr;
  std::shared_ptr<Event> wait = nullptr;
};

struct Stream {
  std::deque<Entry> entries;
};

struct Task {
  Communicator* owner;
  Stream* stream;
  std::vector<Transfer> transfers = {};
  std::byte* sum = nullptr;
  size_t count = 0;
  NcclType type = NcclType::kInt8;
  bool is_posted = false;
  int64_t num_pending = 0;
};

struct Communicator {
  int64_t id;
  int rank;
  int size;
  std::thread::id thread = {};
  NcclResult error = NcclResult::kSuccess;
  bool is_connected = false;
  int lag = 0;                                 // questions until what was called is done
  std::vector<std::shared_ptr<Task>> waiting;  // to be put into their streams then
};

struct Offer {
  std::shared_ptr<Task> task;
  Transfer transfer;
};

struct Mailbox {
  std::deque<Offer> sends;
  std::deque<Offer> receives;
};

torch::ScalarType TorchType(NcclType type) {
  switch (type) {
    case NcclType::kFloat32:
      return torch::kFloat32;
    case NcclType::kFloat64:
      return torch::kFloat64;
    case NcclType::kFloat16:
      return torch::kFloat16;
    case NcclType::kBfloat16:
      return torch::kBFloat16;
    case NcclType::kInt32:
      return torch::kInt32;
    case NcclType::kInt64:
      return torch::kInt64;
    case NcclType::kInt8:
      return torch::kInt8;
  }
  return torch::kInt8;
}

}  // namespace

struct FakeNccl::State {
  // With the mutex held, as all below.
  Communicator* Find(NcclHandle handle) {
    auto* const communicator = static_cast<Communicator*>(handle);
    if (!communicators.contains(communicator)) {
      ADD_FAILURE() << "NCCL was called with a communicator that is gone";
      return nullptr;
    }
    if (communicator->thread == std::thread::id())
      communicator->thread = std::this_thread::get_id();
    EXPECT_EQ(communicator->thread, std::this_thread::get_id())
        << "two threads use one communicator of NCCL";
    return communicator;
  }

  bool AllHere(const Communicator& communicator) const {
    int here = 0;
    for (const Communicator* each : communicators) here += each->id == communicator.id;
    return here == communicator.size && !hang_init.contains(communicator.rank);
  }

  NcclResult Progress(Communicator& communicator) {
    if (communicator.error != NcclResult::kSuccess) return communicator.error;
    if (!communicator.is_connected) {
      if (!connected.contains(communicator.id) && !AllHere(communicator)) {
        return NcclResult::kInProgress;
      }
      connected.insert(communicator.id);
    }
    if (communicator.lag > 0) {
      --communicator.lag;
      return NcclResult::kInProgress;
    }
    communicator.is_connected = true;
    for (const auto& task : std::exchange(communicator.waiting, {})) {
      task->stream->entries.push_back({.task = task});
      ++started[communicator.rank];
      changed.notify_all();
    }
    Run();
    return communicator.error;
  }

  // Lets all streams go as far as they can.
  void Run() {
    bool has_moved = true;
    while (has_moved) {
      has_moved = false;
      for (Stream& stream : streams) {
        while (!stream.entries.empty()) {
          Entry& front = stream.entries.front();
          if (front.wait != nullptr && !front.wait->is_reached) break;
          if (front.reach != nullptr) front.reach->is_reached = true;
          if (front.task != nullptr) {
            Post(front.task);
            if (front.task->num_pending > 0) break;
          }
          stream.entries.pop_front();
          has_moved = true;
        }
      }
    }
  }

  void Post(const std::shared_ptr<Task>& task) {
    if (task->is_posted) return;
    if (hanging.contains(task->owner->rank)) {
      task->num_pending = 1;
      return;
    }
    task->is_posted = true;
    const Communicator& owner = *task->owner;
    if (task->sum != nullptr) {
      task->num_pending = 1;
      auto& all = sums[owner.id];
      all.push_back(task);
      if (static_cast<int>(all.size()) == owner.size) AddUp(std::exchange(all, {}));
      return;
    }
    task->num_pending = static_cast<int64_t>(task->transfers.size());
    for (const Transfer& each : task->transfers) {
      const int from = each.is_send ? owner.rank : each.peer;
      const int to = each.is_send ? each.peer : owner.rank;
      Mailbox& mailbox = mailboxes[{owner.id, from, to}];
      (each.is_send ? mailbox.sends : mailbox.receives).push_back({task, each});
      Match(mailbox);
    }
  }

  void Match(Mailbox& mailbox) {
    while (!mailbox.sends.empty() && !mailbox.receives.empty()) {
      const Offer send = mailbox.sends.front(), receive = mailbox.receives.front();
      mailbox.sends.pop_front();
      mailbox.receives.pop_front();
      if (send.transfer.bytes != receive.transfer.bytes) {
        // Kinder than NCCL, which does not say so.
        send.task->owner->error = receive.task->owner->error = NcclResult::kInvalidUsage;
        return;
      }
      std::memcpy(receive.transfer.data, send.transfer.data, send.transfer.bytes);
      --send.task->num_pending;
      --receive.task->num_pending;
    }
  }

  static void AddUp(const std::vector<std::shared_ptr<Task>>& tasks) {
    const auto tensor = [](const Task& task) {
      return torch::from_blob(task.sum, {static_cast<int64_t>(task.count)}, TorchType(task.type));
    };
    torch::Tensor sum = tensor(*tasks[0]).clone();
    for (size_t i = 1; i < tasks.size(); ++i) sum += tensor(*tasks[i]);
    for (const auto& task : tasks) {
      tensor(*task).copy_(sum);
      --task->num_pending;
    }
  }

  // Takes everything of the communicator out of streams and mailboxes.
  void Withdraw(Communicator* communicator) {
    for (Stream& stream : streams) {
      std::erase_if(stream.entries, [&](const Entry& entry) {
        return entry.task != nullptr && entry.task->owner == communicator;
      });
    }
    const auto is_own = [&](const Offer& offer) { return offer.task->owner == communicator; };
    for (auto& [key, mailbox] : mailboxes) {
      std::erase_if(mailbox.sends, is_own);
      std::erase_if(mailbox.receives, is_own);
    }
    for (auto& [id, tasks] : sums) {
      std::erase_if(tasks, [&](const auto& task) { return task->owner == communicator; });
    }
    std::erase_if(mailboxes, [](const auto& entry) {
      return entry.second.sends.empty() && entry.second.receives.empty();
    });
    std::erase_if(sums, [](const auto& entry) { return entry.second.empty(); });
    communicators.erase(communicator);
    delete communicator;
    Run();
  }

  std::mutex mutex;
  std::condition_variable changed;
  int version = 22809;
  int64_t num_ids = 0;
  int lag = 0;
  std::set<Communicator*> communicators;
  std::set<int64_t> connected;  // ids
  std::list<Stream> streams;
  std::map<std::tuple<int64_t, int, int>, Mailbox> mailboxes;  // by id, sender, receiver
  std::map<int64_t, std::vector<std::shared_ptr<Task>>> sums;
  std::map<int, NcclResult> fail_init;  // by rank, as all below
  std::set<int> hang_init, hanging, hang_abort;
  std::map<int, int> started;
};

namespace {

// C functions know no object.
std::mutex current_mutex;
std::shared_ptr<FakeNccl::State> current;
// What group_start has opened on this thread.
thread_local bool in_group = false;
thread_local std::map<std::pair<Communicator*, Stream*>, std::shared_ptr<Task>> group_tasks;

std::shared_ptr<FakeNccl::State> Current() {
  const std::lock_guard lock(current_mutex);
  return current;
}

NcclResult GetVersion(int* version) {
  const auto state = Current();
  const std::lock_guard lock(state->mutex);
  *version = state->version;
  return NcclResult::kSuccess;
}

const char* GetErrorString(NcclResult result) {
  switch (result) {
    case NcclResult::kRemoteError:
      return "remote process exited or there was a network error";
    case NcclResult::kSystemError:
      return "unhandled system error";
    case NcclResult::kInvalidUsage:
      return "invalid usage";
    default:
      return "some error";
  }
}

const char* GetLastError(NcclHandle) { return "the last\nerror"; }

NcclResult GetUniqueId(NcclUniqueId* id) {
  const auto state = Current();
  const std::lock_guard lock(state->mutex);
  const int64_t number = ++state->num_ids;
  std::memset(id->bytes, 0x5a, sizeof(id->bytes));
  std::memcpy(id->bytes, &number, sizeof(number));
  return NcclResult::kSuccess;
}

NcclResult CommInitRankConfig(NcclHandle* handle, int size, NcclUniqueId id, int rank,
                              NcclConfig* config) {
  const auto state = Current();
  const std::lock_guard lock(state->mutex);
  if (config->magic != 0xcafebeef || config->size != 24 || config->blocking != 0) {
    ADD_FAILURE() << "expected the configuration of a non-blocking communicator";
    return NcclResult::kInvalidArgument;
  }
  if (state->fail_init.contains(rank)) return state->fail_init.at(rank);
  auto* const communicator = new Communicator{.id = 0, .rank = rank, .size = size};
  std::memcpy(&communicator->id, id.bytes, sizeof(communicator->id));
  communicator->lag = state->lag;
  state->communicators.insert(communicator);
  *handle = communicator;
  return NcclResult::kInProgress;
}

NcclResult CommGetAsyncError(NcclHandle handle, NcclResult* error) {
  const auto state = Current();
  const std::lock_guard lock(state->mutex);
  Communicator* const communicator = state->Find(handle);
  if (communicator == nullptr) return NcclResult::kInvalidArgument;
  *error = state->Progress(*communicator);
  return NcclResult::kSuccess;
}

NcclResult CommAbort(NcclHandle handle) {
  const auto state = Current();
  std::unique_lock lock(state->mutex);
  Communicator* const communicator = state->Find(handle);
  if (communicator == nullptr) return NcclResult::kInvalidArgument;
  state->changed.wait(lock, [&] { return !state->hang_abort.contains(communicator->rank); });
  state->Withdraw(communicator);
  return NcclResult::kSuccess;
}

NcclResult GroupEnd() {
  in_group = false;
  const auto tasks = std::exchange(group_tasks, {});
  const auto state = Current();
  const std::lock_guard lock(state->mutex);
  for (const auto& [key, task] : tasks) {
    Communicator* const owner = key.first;
    EXPECT_TRUE(owner->is_connected && owner->waiting.empty())
        << "NCCL was called while it was still at the call before";
    owner->waiting.push_back(task);
    owner->lag = state->lag;
  }
  return tasks.empty() ? NcclResult::kSuccess : NcclResult::kInProgress;
}

NcclResult GroupStart() {
  EXPECT_FALSE(in_group);
  in_group = true;
  return NcclResult::kSuccess;
}

NcclResult Enqueue(NcclHandle handle, NcclStream stream,
                   const std::function<void(Task&)>& describe) {
  const auto state = Current();
  const bool is_alone = !in_group;
  {
    const std::lock_guard lock(state->mutex);
    Communicator* const communicator = state->Find(handle);
    if (communicator == nullptr) return NcclResult::kInvalidArgument;
    auto& task = group_tasks[{communicator, static_cast<Stream*>(stream)}];
    if (task == nullptr) {
      task = std::make_shared<Task>(
          Task{.owner = communicator, .stream = static_cast<Stream*>(stream)});
    }
    describe(*task);
  }
  return is_alone ? GroupEnd() : NcclResult::kSuccess;
}

NcclResult Transport(bool is_send, void* data, size_t bytes, int peer, NcclHandle handle,
                     NcclStream stream) {
  return Enqueue(handle, stream, [&](Task& task) {
    task.transfers.push_back({is_send, peer, static_cast<std::byte*>(data), bytes});
    EXPECT_LE(task.transfers.size(), 2048u) << "more than NCCL takes in one group";
  });
}

NcclResult Send(const void* data, size_t count, NcclType, int peer, NcclHandle handle,
                NcclStream stream) {
  return Transport(true, const_cast<void*>(data), count, peer, handle, stream);
}

NcclResult Receive(void* data, size_t count, NcclType, int peer, NcclHandle handle,
                   NcclStream stream) {
  return Transport(false, data, count, peer, handle, stream);
}

NcclResult AllReduce(const void* from, void* to, size_t count, NcclType type, NcclReduction,
                     NcclHandle handle, NcclStream stream) {
  EXPECT_EQ(from, to);
  return Enqueue(handle, stream, [&](Task& task) {
    task.sum = static_cast<std::byte*>(to);
    task.count = count;
    task.type = type;
  });
}

class HostEvent : public StreamEvent {
 public:
  HostEvent(std::shared_ptr<FakeNccl::State> state, std::shared_ptr<Event> event)
      : state_(std::move(state)), event_(std::move(event)) {}

  absl::StatusOr<bool> Reached() override {
    const std::lock_guard lock(state_->mutex);
    state_->Run();
    return event_->is_reached;
  }
  const std::shared_ptr<Event>& event() const { return event_; }

 private:
  const std::shared_ptr<FakeNccl::State> state_;
  const std::shared_ptr<Event> event_;
};

class HostStream : public WorkStream {
 public:
  explicit HostStream(std::shared_ptr<FakeNccl::State> state) : state_(std::move(state)) {
    const std::lock_guard lock(state_->mutex);
    stream_ = state_->streams.emplace(state_->streams.end());
  }
  ~HostStream() override {
    const std::lock_guard lock(state_->mutex);
    state_->streams.erase(stream_);
  }

  NcclStream handle() const override { return &*stream_; }
  absl::Status WaitFor(StreamEvent& event) override {
    const std::lock_guard lock(state_->mutex);
    stream_->entries.push_back({.wait = static_cast<HostEvent&>(event).event()});
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<StreamEvent>> Record() override {
    const std::lock_guard lock(state_->mutex);
    auto event = std::make_shared<Event>();
    stream_->entries.push_back({.reach = event});
    return std::make_unique<HostEvent>(state_, std::move(event));
  }

 private:
  const std::shared_ptr<FakeNccl::State> state_;
  std::list<Stream>::iterator stream_;
};

class HostDevice : public StreamDevice {
 public:
  explicit HostDevice(std::shared_ptr<FakeNccl::State> state) : state_(std::move(state)) {
    current_->is_reached = true;
  }

  c10::Device device() const override { return torch::kCPU; }
  absl::Status Enter() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<WorkStream>> NewStream() override {
    return std::make_unique<HostStream>(state_);
  }
  absl::StatusOr<std::unique_ptr<StreamEvent>> RecordCurrent() override {
    const std::lock_guard lock(state_->mutex);
    return std::make_unique<HostEvent>(state_, current_);
  }

  void Hold() {
    const std::lock_guard lock(state_->mutex);
    current_ = std::make_shared<Event>();
  }
  void Release() {
    const std::lock_guard lock(state_->mutex);
    current_->is_reached = true;
  }

 private:
  const std::shared_ptr<FakeNccl::State> state_;
  std::shared_ptr<Event> current_ = std::make_shared<Event>();
};

}  // namespace

FakeNccl::FakeNccl() : state_(std::make_shared<State>()) {
  const std::lock_guard lock(current_mutex);
  EXPECT_TRUE(current == nullptr) << "one FakeNccl at a time";
  current = state_;
}

FakeNccl::~FakeNccl() {
  EXPECT_EQ(num_communicators(), 0) << "communicators of NCCL were left behind";
  const std::lock_guard lock(current_mutex);
  current = nullptr;
}

NcclApi FakeNccl::api() const {
  return {.get_version = GetVersion,
          .get_error_string = GetErrorString,
          .get_last_error = GetLastError,
          .get_unique_id = GetUniqueId,
          .comm_init_rank_config = CommInitRankConfig,
          .comm_get_async_error = CommGetAsyncError,
          .comm_abort = CommAbort,
          .group_start = GroupStart,
          .group_end = GroupEnd,
          .send = Send,
          .receive = Receive,
          .all_reduce = AllReduce};
}

std::shared_ptr<StreamDevice> FakeNccl::NewDevice() { return std::make_shared<HostDevice>(state_); }

void FakeNccl::SetVersion(int version) {
  const std::lock_guard lock(state_->mutex);
  state_->version = version;
}

void FakeNccl::FailInit(int rank, NcclResult result) {
  const std::lock_guard lock(state_->mutex);
  state_->fail_init[rank] = result;
}

void FakeNccl::HangInit(int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->hang_init.insert(rank);
}

void FakeNccl::Lag(int questions) {
  const std::lock_guard lock(state_->mutex);
  state_->lag = questions;
}

void FakeNccl::Hang(int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->hanging.insert(rank);
}

void FakeNccl::Release(int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->hanging.erase(rank);
  state_->hang_abort.erase(rank);
  state_->Run();
  state_->changed.notify_all();
}

void FakeNccl::ReportError(int rank, NcclResult result) {
  const std::lock_guard lock(state_->mutex);
  for (Communicator* each : state_->communicators) {
    if (each->rank == rank) each->error = result;
  }
}

void FakeNccl::HangAbort(int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->hang_abort.insert(rank);
}

void FakeNccl::HoldCurrent(StreamDevice& device) { static_cast<HostDevice&>(device).Hold(); }
void FakeNccl::ReleaseCurrent(StreamDevice& device) { static_cast<HostDevice&>(device).Release(); }

void FakeNccl::AwaitStarted(int rank, int operations) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->started[rank] >= operations; });
}

int FakeNccl::num_communicators() const {
  const std::lock_guard lock(state_->mutex);
  return static_cast<int>(state_->communicators.size());
}

int FakeNccl::num_ids() const {
  const std::lock_guard lock(state_->mutex);
  return static_cast<int>(state_->num_ids);
}

}  // namespace albef
