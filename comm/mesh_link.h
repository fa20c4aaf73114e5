// One lane between this rank and a peer: the transfers that wait for their turn on its stream.
//
// Sends leave in the order in which they were posted, in chunks, one under way at a time. What
// arrives is copied straight to where the next receive wants it; what arrives before its receive
// is posted is kept, up to a bound, beyond which nothing more is read and the peer's writes come to
// a halt. Reads never wait for writes.
//
// A link that fails says so to its group and leaves the rest to that. All methods may be called
// from any thread.
#ifndef ALBEF_COMM_MESH_LINK_H_
#define ALBEF_COMM_MESH_LINK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "comm/mesh_frame.h"
#include "comm/mesh_stream.h"
#include "comm/work.h"

namespace albef {

class MeshLink : public MeshStream::Receiver, public std::enable_shared_from_this<MeshLink> {
 public:
  // What the link tells; called without a lock, from any thread.
  class Listener {
   public:
    virtual ~Listener() = default;
    // Nothing more can be sent or received. Names the peer.
    virtual void OnLost(const absl::Status& why) = 0;
    // Connected, or closed.
    virtual void OnChange() = 0;
  };

  struct Outgoing {
    std::shared_ptr<Operation> operation = nullptr;
    uint64_t index = 0;  // of the operation on its lane
    std::span<const std::byte> bytes = {};
    std::shared_ptr<const void> owner = nullptr;
  };
  struct Incoming {
    std::shared_ptr<Operation> operation = nullptr;
    uint64_t index = 0;
    std::span<std::byte> bytes = {};
    std::shared_ptr<const void> owner = nullptr;
  };

  // `peer_name` is for errors.
  MeshLink(std::weak_ptr<Listener> listener, int peer, std::string peer_name);

  // Takes over a stream, on which no write is under way, and sends `greeting` first. False if there
  // is one already.
  bool Attach(std::shared_ptr<MeshStream> stream, std::optional<grpc::ByteBuffer> greeting);
  bool Attached() const;

  // Bytes must not be empty.
  void Post(Outgoing send);
  void Post(Incoming receive);

  // Says farewell once everything has been sent.
  void Leave();
  // Whether the peer has said farewell too, or is gone.
  bool Closed() const;

  // Ends everything with `why`. No memory is written once this has returned.
  void Fail(const absl::Status& why);

  // Of the transfers that are done.
  int64_t bytes_sent() const { return bytes_sent_; }
  int64_t bytes_received() const { return bytes_received_; }

  bool OnFrame(grpc::ByteBuffer frame) override;
  void OnWritten() override;
  void OnEnd(const absl::Status& why) override;

 private:
  enum class Farewell { kNone, kDue, kSent };

  // Writes what is next, unless a write is under way.
  void Pump();
  // The next frame, if there is one. With send_mutex_ held.
  std::optional<grpc::ByteBuffer> NextFrame();

  // Whether the frame can be dealt with now. These with receive_mutex_ held.
  bool Expected(grpc::ByteBuffer& frame) const;
  absl::Status Take(grpc::ByteBuffer frame);
  absl::Status TakeChunk(grpc::ByteBuffer frame);
  absl::Status TakeFarewell();
  absl::StatusOr<std::byte*> Place(const ChunkHeader& header, size_t num_bytes);

  // Sends the answer, if a farewell has come and none has been said.
  void AnswerFarewell();
  void Lost(const absl::Status& why);
  absl::Status Named(const absl::Status& why) const;
  absl::Status PeerLeft() const;

  const std::weak_ptr<Listener> listener_;
  const int peer_;
  const std::string peer_name_;
  std::atomic<int64_t> bytes_sent_ = 0;
  std::atomic<int64_t> bytes_received_ = 0;

  // Written with both mutexes held; read with either.
  std::shared_ptr<MeshStream> stream_;
  absl::Status failure_;
  bool peer_left_ = false;  // and all it sent was taken
  bool ended_ = false;

  mutable std::mutex send_mutex_;
  std::optional<grpc::ByteBuffer> greeting_;
  std::deque<Outgoing> sends_;
  size_t sent_ = 0;  // bytes of the first
  bool writing_ = false;
  Farewell farewell_ = Farewell::kNone;

  mutable std::mutex receive_mutex_;  // before send_mutex_ where both are held
  std::deque<Incoming> receives_;
  size_t received_ = 0;  // bytes of the first
  std::deque<grpc::ByteBuffer> early_;
  size_t early_bytes_ = 0;
  bool farewell_early_ = false;  // the last of them is a farewell
  bool paused_ = false;          // no frame is read
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_LINK_H_
