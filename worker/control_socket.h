// Messages between a supervisor and its trainer, over a pair of connected stream sockets.
//
// Each message is preceded by its length (uint32, little-endian; at most kMaxFrameBytes). Whatever
// happens to the peer shows as a status, never as SIGPIPE and never as half a message: a frame is
// handed out when all of it has come. The descriptor may be blocking or not; every call is told by
// its arguments how long it may wait.
//
// Two ways to send. Send() waits until the kernel has taken the message: for the trainer, whose
// supervisor always reads. Queue() never waits: for the supervisor's event loop, whose trainer may
// be stopped; what does not fit is kept, and Flush() goes on with it when poll says POLLOUT.
//
// Send, Queue, Flush, has_pending and Shutdown are safe from any thread; Receive is for one thread
// at a time.
#ifndef ALBEF_WORKER_CONTROL_SOCKET_H_
#define ALBEF_WORKER_CONTROL_SOCKET_H_

#include <google/protobuf/message_lite.h>

#include <chrono>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

class ControlSocket {
 public:
  static constexpr size_t kMaxFrameBytes = size_t{64} << 20;
  static constexpr size_t kMaxPendingBytes = 2 * kMaxFrameBytes;

  enum class Received {
    kMessage,
    kNothing,  // within the timeout
    kEnd,      // the peer has closed its end or is gone; no message is lost between
  };

  // Two connected ends, neither inherited by programs that this process starts.
  static absl::StatusOr<std::pair<FileDescriptor, FileDescriptor>> MakePair();

  // `peer` is what errors call the other side: "trainer 4711".
  ControlSocket(FileDescriptor fd, std::string peer);

  // INVALID_ARGUMENT for a message beyond the bound; UNAVAILABLE once the peer is gone;
  // DEADLINE_EXCEEDED when it has not read for so long (the message stays queued and whole).
  // Without a timeout it waits for as long as the peer lives.
  absl::Status Send(const google::protobuf::MessageLite& message,
                    std::optional<std::chrono::milliseconds> timeout = std::nullopt);

  // As Send, without waiting. RESOURCE_EXHAUSTED when more than kMaxPendingBytes would be kept.
  absl::Status Queue(const google::protobuf::MessageLite& message);
  absl::Status Flush();
  bool has_pending() const;

  // The next message, waiting at most `timeout` (zero: only what is there) or for ever. What
  // `message` held is replaced. DATA_LOSS for a torn, oversized or unreadable frame, now and ever
  // after; UNAVAILABLE for trouble of the socket.
  absl::StatusOr<Received> Receive(google::protobuf::MessageLite& message,
                                   std::optional<std::chrono::milliseconds> timeout = std::nullopt);

  // Ends both directions: a waiting Receive returns, the peer sees the end.
  void Shutdown();

  // For poll. It is ready for Receive on POLLIN; whole frames may also be buffered already, so call
  // Receive until kNothing.
  int fd() const { return fd_.get(); }

 private:
  absl::Status Append(const google::protobuf::MessageLite& message);
  absl::Status WriteSome();
  absl::StatusOr<bool> TakeFrame(google::protobuf::MessageLite& message);
  absl::Status Broken(std::string_view what) const;

  const FileDescriptor fd_;
  const std::string peer_;

  mutable std::mutex send_mutex_;
  std::string pending_;  // guarded by send_mutex_; bytes [written_, end) are still to go
  size_t written_ = 0;   // guarded by send_mutex_

  std::string received_;  // of the receiving thread: bytes [taken_, end) are not handed out
  size_t taken_ = 0;
  absl::Status receive_status_;  // the first DATA_LOSS
};

}  // namespace albef

#endif  // ALBEF_WORKER_CONTROL_SOCKET_H_
