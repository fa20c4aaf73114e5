// The worker's end of the session with the coordinator: dials, dials again when it breaks, and
// carries messages both ways. What is said is its owner's business.
//
// Two threads: one dials and reads, one writes while a stream is open. The owner's event loop never
// waits: it sends into a queue, and takes events when event_fd() is readable. A coordinator that
// does not read (stopped) fills the queue; beyond its bound the stream is given up.
//
// Each stream has a number. After Opened the owner sends its hello into that stream, then all else;
// what is sent into a stream that is gone is dropped, so nothing can come before the hello of the
// next.
//
// All methods are safe from any thread.
#ifndef ALBEF_WORKER_SESSION_CLIENT_H_
#define ALBEF_WORKER_SESSION_CLIENT_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"
#include "proto/coordinator.pb.h"
#include "worker/coordinator_finder.h"

namespace grpc {
class ClientContext;
}

namespace albef {

namespace session_event {

// Before every attempt.
struct Sighted {
  CoordinatorSighting sighting = {};
};
struct Opened {
  uint64_t stream = 0;
  std::string address = {};
  std::string local_host = {};  // ours on the way there
};
struct Received {
  uint64_t stream = 0;
  v1::CoordinatorMessage message = {};
};
// A stream has ended, or could not be opened (stream 0).
struct Closed {
  uint64_t stream = 0;
  absl::Status status = {};
};

}  // namespace session_event

using SessionEvent = std::variant<session_event::Sighted, session_event::Opened,
                                  session_event::Received, session_event::Closed>;

class SessionClient {
 public:
  struct Options {
    // Called on a thread of the client before every attempt; may take its time.
    std::function<CoordinatorSighting()> look = {};
    std::chrono::milliseconds connect_limit{1000};
    // Between attempts: the first after a broken stream comes at once.
    std::chrono::milliseconds min_pause{50};
    std::chrono::milliseconds max_pause{200};
    size_t max_queued_bytes = size_t{128} << 20;
  };

  static absl::StatusOr<std::unique_ptr<SessionClient>> Start(Options options);
  ~SessionClient();

  // Readable while there are events.
  int event_fd() const { return event_.get(); }
  std::vector<SessionEvent> TakeEvents();

  void Send(uint64_t stream, v1::WorkerMessage message);

  // Ends a stream; Closed says so with this status.
  void Close(uint64_t stream, absl::Status status);

  // Waits at most `limit` until what was sent has been handed to the transport.
  void Flush(std::chrono::milliseconds limit);

 private:
  SessionClient(Options options, FileDescriptor event);
  void Run();
  void Dial(const CoordinatorSighting& sighting);
  bool Pause(std::chrono::milliseconds duration);
  void Post(SessionEvent event);

  const Options options_;
  const FileDescriptor event_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool is_stopping_ = false;
  std::vector<SessionEvent> events_;
  uint64_t stream_ = 0;  // that is open; 0: none
  uint64_t last_stream_ = 0;
  grpc::ClientContext* context_ = nullptr;  // of stream_
  std::deque<v1::WorkerMessage> queue_;
  size_t queued_bytes_ = 0;
  bool is_writing_ = false;
  std::optional<absl::Status> closed_with_;  // by Close

  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_SESSION_CLIENT_H_
