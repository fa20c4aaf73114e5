// One stream of frames between two trainers, from either end, without gRPC's rules of use.
//
// gRPC wants at most one read and one write under way, none begun after the end, and everything
// kept until the last of them has come back. A stream sees to that: it keeps itself alive while
// gRPC works on it, and tells a receiver what happens.
//
// All methods may be called from any thread, but Write() by one at a time.
#ifndef ALBEF_COMM_MESH_STREAM_H_
#define ALBEF_COMM_MESH_STREAM_H_

#include <grpcpp/channel.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/byte_buffer.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "proto/mesh.grpc.pb.h"

namespace albef {

// What goes through the completion queue. Whoever takes one out of it calls Complete().
class CompletionTag {
 public:
  virtual ~CompletionTag() = default;
  virtual void Complete(bool ok) = 0;
};

// Where streams are counted from their start until gRPC has let go of them.
class StreamCount {
 public:
  void Add();
  void Remove();
  void AwaitNone();

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;
};

class MeshStream : public std::enable_shared_from_this<MeshStream> {
 public:
  using Service = mesh::v1::Mesh::WithRawMethod_Exchange<mesh::v1::Mesh::Service>;

  // Called from the threads that serve the completion queue; no lock is held meanwhile. OnEnd() is
  // the last call, frames come one at a time and in order.
  class Receiver {
   public:
    virtual ~Receiver() = default;
    // The server was reached, or a call was accepted. Not at all if that never happens.
    virtual void OnOpen() {}
    // False: no further frame before Resume().
    virtual bool OnFrame(grpc::ByteBuffer frame) = 0;
    // What was written has left this process and may be overwritten.
    virtual void OnWritten() = 0;
    virtual void OnEnd(const absl::Status& why) = 0;
  };

  // Calls the server at the other end of the channel, once that can be reached. `queue` and `count`
  // must outlive the stream's end, like below.
  static std::shared_ptr<MeshStream> Dial(std::shared_ptr<grpc::Channel> channel,
                                          const std::string& token, grpc::CompletionQueue* queue,
                                          StreamCount* count, std::shared_ptr<Receiver> receiver);

  // Waits for a call of the service.
  static std::shared_ptr<MeshStream> Accept(Service* service, grpc::ServerCompletionQueue* queue,
                                            StreamCount* count, std::shared_ptr<Receiver> receiver);

  virtual ~MeshStream() = default;
  MeshStream(const MeshStream&) = delete;
  MeshStream& operator=(const MeshStream&) = delete;

  // From now on `receiver` is told. False if the stream has ended: it will not be.
  bool SetReceiver(std::shared_ptr<Receiver> receiver);

  // One at a time: the next after OnWritten(). Nothing happens once the stream is ending.
  void Write(const grpc::ByteBuffer& frame);

  // Goes on after an OnFrame() that returned false.
  void Resume();

  // Ends the stream now: of the receiver's calls only OnEnd() follows. Accepted streams must be
  // open.
  void Cancel();

  // Ends an accepted stream so that its dialer's OnEnd() gets `status`. No write may be under way.
  void Refuse(const absl::Status& status);

  // A value of the caller's metadata, of an accepted stream that is open; empty if there is none.
  virtual std::string Metadata(const std::string& key) const = 0;

 protected:
  // kOver comes back when the call is over, for whatever reason.
  enum class Step { kStart, kRead, kWrite, kRefuse, kOver };
  static constexpr int kNumSteps = 5;

  struct Tag : CompletionTag {
    void Complete(bool ok) override;

    MeshStream* stream = nullptr;
    Step step = Step::kStart;
    std::shared_ptr<MeshStream> self = nullptr;  // while under way
  };

  explicit MeshStream(StreamCount* count);

  Tag* tag(Step step) { return &tags_[static_cast<size_t>(step)]; }
  // The step is now under way, in whatever state the stream is.
  void Begin(Step step);
  // The step will not come back.
  void Withdraw(Step step);

 private:
  virtual void StartRead(grpc::ByteBuffer* frame) = 0;
  virtual void StartWrite(const grpc::ByteBuffer& frame) = 0;
  virtual void StartRefuse(const absl::Status& status) = 0;
  virtual void StartCancel() = 0;
  // What belongs between the start and everything else.
  virtual void AfterStart(bool ok) = 0;
  // What ends the call where a read has failed and that alone does not.
  virtual void AfterReadFailed() {}
  // Why the stream ended, once nothing is under way.
  virtual absl::Status Outcome() const = 0;

  bool BeginUnlessEnding(Step step);
  void BeginLocked(Step step);
  void Completed(Step step, bool ok);
  void Tell(Receiver& receiver, Step step);
  void Settle();

  StreamCount* const count_;
  Tag tags_[kNumSteps];
  grpc::ByteBuffer incoming_;  // of the read under way

  std::mutex mutex_;
  std::shared_ptr<Receiver> receiver_;
  int under_way_ = 0;
  bool ending_ = false;  // nothing new is begun
  bool refused_ = false;
  bool ended_ = false;
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_STREAM_H_
