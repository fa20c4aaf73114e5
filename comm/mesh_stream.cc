#include "comm/mesh_stream.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace albef {
namespace {

// The write is reported once it is in the kernel, and not when it is gRPC's to send.
const grpc::WriteOptions kWriteThrough = grpc::WriteOptions().set_write_through();

class DialedStream : public MeshStream {
 public:
  DialedStream(std::shared_ptr<grpc::Channel> channel, const std::string& token, StreamCount* count)
      : MeshStream(count), stub_(std::move(channel)) {
    context_.set_wait_for_ready(true);
    if (!token.empty()) context_.AddMetadata("authorization", absl::StrCat("Bearer ", token));
  }

  void Start(grpc::CompletionQueue* queue) {
    call_ = stub_.PrepareCall(&context_, "/albef.mesh.v1.Mesh/Exchange", queue);
    Begin(Step::kStart);
    call_->StartCall(tag(Step::kStart));
  }

  std::string Metadata(const std::string&) const override { return {}; }

 private:
  void StartRead(grpc::ByteBuffer* frame) override { call_->Read(frame, tag(Step::kRead)); }
  void StartWrite(const grpc::ByteBuffer& frame) override {
    call_->Write(frame, kWriteThrough, tag(Step::kWrite));
  }
  void StartRefuse(const absl::Status&) override {}
  void StartCancel() override { context_.TryCancel(); }

  // Asked for early, the status comes by itself when the call is over.
  void AfterStart(bool) override {
    Begin(Step::kOver);
    call_->Finish(&status_, tag(Step::kOver));
  }

  absl::Status Outcome() const override {
    if (status_.ok()) return absl::UnavailableError("connection closed");
    return absl::Status(static_cast<absl::StatusCode>(status_.error_code()),
                        status_.error_message());
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::Status status_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

class AcceptedStream : public MeshStream {
 public:
  explicit AcceptedStream(StreamCount* count) : MeshStream(count), call_(&context_) {}

  void Start(Service* service, grpc::ServerCompletionQueue* queue) {
    Begin(Step::kStart);
    Begin(Step::kOver);  // it may come back before the start does
    context_.AsyncNotifyWhenDone(tag(Step::kOver));
    service->RequestExchange(&context_, &call_, queue, queue, tag(Step::kStart));
  }

  std::string Metadata(const std::string& key) const override {
    const auto found = context_.client_metadata().find(key);
    if (found == context_.client_metadata().end()) return {};
    return std::string(found->second.data(), found->second.size());
  }

 private:
  void StartRead(grpc::ByteBuffer* frame) override { call_.Read(frame, tag(Step::kRead)); }
  void StartWrite(const grpc::ByteBuffer& frame) override {
    call_.Write(frame, kWriteThrough, tag(Step::kWrite));
  }
  void StartRefuse(const absl::Status& status) override {
    call_.Finish(
        grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message())),
        tag(Step::kRefuse));
  }
  void StartCancel() override { context_.TryCancel(); }

  // The dialer never says that it has sent all, so it is gone.
  void AfterReadFailed() override { context_.TryCancel(); }

  // Without a call gRPC says nothing about its end.
  void AfterStart(bool ok) override {
    if (!ok) Withdraw(Step::kOver);
  }

  absl::Status Outcome() const override { return absl::UnavailableError("connection closed"); }

  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer> call_;
};

}  // namespace

void StreamCount::Add() {
  const std::lock_guard lock(mutex_);
  ++count_;
}

void StreamCount::Remove() {
  const std::lock_guard lock(mutex_);
  if (--count_ == 0) none_.notify_all();
}

void StreamCount::AwaitNone() {
  std::unique_lock lock(mutex_);
  none_.wait(lock, [this] { return count_ == 0; });
}

std::shared_ptr<MeshStream> MeshStream::Dial(std::shared_ptr<grpc::Channel> channel,
                                             const std::string& token, grpc::CompletionQueue* queue,
                                             StreamCount* count,
                                             std::shared_ptr<Receiver> receiver) {
  const auto stream = std::make_shared<DialedStream>(std::move(channel), token, count);
  stream->SetReceiver(std::move(receiver));
  stream->Start(queue);
  return stream;
}

std::shared_ptr<MeshStream> MeshStream::Accept(Service* service, grpc::ServerCompletionQueue* queue,
                                               StreamCount* count,
                                               std::shared_ptr<Receiver> receiver) {
  const auto stream = std::make_shared<AcceptedStream>(count);
  stream->SetReceiver(std::move(receiver));
  stream->Start(service, queue);
  return stream;
}

MeshStream::MeshStream(StreamCount* count) : count_(count) {
  for (int step = 0; step < kNumSteps; ++step) {
    tags_[step].stream = this;
    tags_[step].step = static_cast<Step>(step);
  }
  count_->Add();
}

bool MeshStream::SetReceiver(std::shared_ptr<Receiver> receiver) {
  const std::lock_guard lock(mutex_);
  if (ended_) return false;
  receiver_.swap(receiver);
  return true;
}

void MeshStream::Write(const grpc::ByteBuffer& frame) {
  if (BeginUnlessEnding(Step::kWrite)) StartWrite(frame);
}

void MeshStream::Resume() {
  if (BeginUnlessEnding(Step::kRead)) StartRead(&incoming_);
}

void MeshStream::Cancel() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ending_ = true;
  }
  StartCancel();
}

void MeshStream::Refuse(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return;
    ending_ = true;
    refused_ = true;
    BeginLocked(Step::kRefuse);
  }
  StartRefuse(status);
}

void MeshStream::Begin(Step step) {
  const std::lock_guard lock(mutex_);
  BeginLocked(step);
}

bool MeshStream::BeginUnlessEnding(Step step) {
  const std::lock_guard lock(mutex_);
  if (ending_) return false;
  BeginLocked(step);
  return true;
}

void MeshStream::BeginLocked(Step step) {
  ++under_way_;
  tag(step)->self = shared_from_this();
}

void MeshStream::Withdraw(Step step) {
  const std::lock_guard lock(mutex_);
  --under_way_;
  tag(step)->self = nullptr;
}

void MeshStream::Tag::Complete(bool ok) {
  std::shared_ptr<MeshStream> kept;
  {
    const std::lock_guard lock(stream->mutex_);
    kept = std::move(self);
  }
  kept->Completed(step, ok);
}

void MeshStream::Completed(Step step, bool ok) {
  std::shared_ptr<Receiver> receiver;
  bool cancel = false;
  {
    const std::lock_guard lock(mutex_);
    // A call that was accepted is told even if it is over already.
    if (!ending_ || step == Step::kStart) receiver = receiver_;
    // Whatever else is under way comes back when the call is over, which it now must be.
    cancel = !ok && step == Step::kRead && !refused_;
    if (!ok || step == Step::kOver) ending_ = true;
  }
  if (step == Step::kStart) AfterStart(ok);
  if (cancel) AfterReadFailed();
  if (ok && receiver != nullptr) Tell(*receiver, step);
  Settle();
}

void MeshStream::Tell(Receiver& receiver, Step step) {
  switch (step) {
    case Step::kStart:
      receiver.OnOpen();
      Resume();
      break;
    case Step::kRead:
      if (receiver.OnFrame(std::exchange(incoming_, grpc::ByteBuffer()))) Resume();
      break;
    case Step::kWrite:
      receiver.OnWritten();
      break;
    case Step::kRefuse:
    case Step::kOver:
      break;
  }
}

void MeshStream::Settle() {
  std::shared_ptr<Receiver> receiver;
  {
    const std::lock_guard lock(mutex_);
    if (--under_way_ > 0 || !ending_) return;
    ended_ = true;
    receiver = std::move(receiver_);
  }
  if (receiver != nullptr) receiver->OnEnd(Outcome());
  receiver = nullptr;
  count_->Remove();
}

}  // namespace albef
