#include "coordinator/session_service.h"

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "coordinator/call_credentials.h"

namespace albef {
namespace {

// A worker that reads nothing for so many messages or bytes does not read at all.
constexpr size_t kMaxQueuedMessages = 10'000;
constexpr size_t kMaxQueuedBytes = 64 << 20;

using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

grpc::ByteBuffer ToBuffer(const v1::CoordinatorMessage& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

// The part that all members get is referred to, not copied.
grpc::ByteBuffer ToBuffer(const AssignOrder& order) {
  const AssignFrame frame = FrameOf(order);
  using Owner = std::shared_ptr<const SharedAssign>;
  const std::string& shared = order.assign->bytes();
  // gRPC takes a pointer to what it may change for historical reasons; it does not change it.
  const std::array<grpc::Slice, 3> slices = {
      grpc::Slice(frame.before),
      grpc::Slice(
          const_cast<char*>(shared.data()), shared.size(),
          [](void* owner) { delete static_cast<Owner*>(owner); }, new Owner(order.assign)),
      grpc::Slice(frame.after)};
  return {slices.data(), slices.size()};
}

// A stream that is refused at once.
class RefusedStream final : public Reactor {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// Lives until gRPC is done with it and the driver has let go of it.
class Stream final : public Reactor, public SessionStream {
 public:
  Stream(RunDriver* driver, grpc::CallbackServerContext* context)
      : driver_(driver), context_(context) {}

  void Begin(std::shared_ptr<Stream> self) {
    self_ = self;
    number_ = driver_->OpenSession(std::move(self));
    StartRead(&incoming_);
  }

  void Send(const v1::CoordinatorMessage& message) override { Enqueue(ToBuffer(message)); }
  void Send(const AssignOrder& order) override { Enqueue(ToBuffer(order)); }

  void Close(const absl::Status& status) override {
    const std::lock_guard lock(mutex_);
    if (!is_closing_) CloseLocked(status);
  }

  void OnReadDone(bool is_ok) override {
    if (!is_ok) {
      {
        const std::lock_guard lock(mutex_);
        if (!is_closing_) CloseLocked(absl::OkStatus());
      }
      return driver_->SessionBroken(number_, "its stream ended");
    }
    v1::WorkerMessage message;
    if (!grpc::SerializationTraits<v1::WorkerMessage>::Deserialize(&incoming_, &message).ok()) {
      Close(absl::InvalidArgumentError("a message that is none of this protocol"));
      return driver_->SessionBroken(number_, "it sent what is no message");
    }
    driver_->Receive(number_, std::move(message), [self = self_] {
      const std::lock_guard lock(self->mutex_);
      if (!self->is_closing_) self->StartRead(&self->incoming_);
    });
  }

  void OnWriteDone(bool is_ok) override {
    const std::lock_guard lock(mutex_);
    is_writing_ = false;
    queued_bytes_ -= queue_.front().Length();
    queue_.pop_front();
    if (is_closing_ && (!is_ok || queue_.empty() || !closing_status_.ok())) return FinishOnce();
    // A write that failed is followed by a read that fails.
    if (is_ok && !queue_.empty()) WriteNext();
  }

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    if (!is_closing_) CloseLocked(absl::CancelledError("the worker is gone"));
    driver_->SessionBroken(number_, "its stream broke");
  }

  void OnDone() override { self_.reset(); }

 private:
  void Enqueue(grpc::ByteBuffer message) {
    const std::lock_guard lock(mutex_);
    if (is_closing_) return;
    queued_bytes_ += message.Length();
    queue_.push_back(std::move(message));
    if (queue_.size() > kMaxQueuedMessages || queued_bytes_ > kMaxQueuedBytes) {
      return CloseLocked(absl::ResourceExhaustedError("the worker does not read what it is sent"));
    }
    if (!is_writing_) WriteNext();
  }

  void WriteNext() {
    is_writing_ = true;
    StartWrite(&queue_.front());
  }

  void CloseLocked(const absl::Status& status) {
    is_closing_ = true;
    closing_status_ = status;
    if (!is_writing_) return FinishOnce();
    // The write under way may wait for ever on a worker that does not read.
    if (!status.ok()) context_->TryCancel();
  }

  void FinishOnce() {
    if (!std::exchange(is_finished_, true)) Finish(ToGrpc(closing_status_));
  }

  RunDriver* const driver_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  std::shared_ptr<Stream> self_;                // until OnDone
  uint64_t number_ = 0;
  grpc::ByteBuffer incoming_;

  std::mutex mutex_;  // guards what follows
  std::deque<grpc::ByteBuffer> queue_;
  size_t queued_bytes_ = 0;
  bool is_writing_ = false;
  bool is_closing_ = false;
  bool is_finished_ = false;
  absl::Status closing_status_;
};

}  // namespace

Reactor* SessionService::Session(grpc::CallbackServerContext* context) {
  if (const grpc::Status status = CheckToken(*context, token_); !status.ok()) {
    return new RefusedStream(status);
  }
  auto stream = std::make_shared<Stream>(driver_, context);
  Stream* const raw = stream.get();
  raw->Begin(std::move(stream));
  return raw;
}

}  // namespace albef
