// Brings one lane to a peer of a lower rank up: dials until the peer has said welcome or refuses.
//
// A peer that cannot be reached, or dies before it has answered, is dialled again, for as long as
// the caller likes; one that refuses fails the group. All methods may be called from any thread.
#ifndef ALBEF_COMM_MESH_DIALER_H_
#define ALBEF_COMM_MESH_DIALER_H_

#include <grpcpp/completion_queue.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "comm/mesh_group_state.h"
#include "comm/mesh_stream.h"
#include "proto/mesh.pb.h"

namespace albef {

class MeshDialer : public MeshStream::Receiver, public std::enable_shared_from_this<MeshDialer> {
 public:
  struct Options {
    std::string address = {};
    std::string token = {};
    std::chrono::milliseconds silence_limit{0};
    mesh::v1::Hello hello = {};
  };

  // The link that `hello` speaks of gets the stream. `queue` and `count` must outlive the dialer's
  // last stream.
  MeshDialer(Options options, std::shared_ptr<MeshGroupState> group, grpc::CompletionQueue* queue,
             StreamCount* count);

  // Dials if it is time to. Returns when it will be again; never while that is not known, which the
  // group is notified of.
  std::chrono::steady_clock::time_point DialWhenDue();

  // Since when nothing at the peer's address has answered; none while somebody there listens, even
  // if it does not say welcome yet.
  std::optional<std::chrono::steady_clock::time_point> UnreachedSince();

  int peer() const { return static_cast<int>(options_.hello.receiver_rank()); }
  const std::string& address() const { return options_.address; }

  // Ends what is under way, and all dialling.
  void Stop();

  void OnOpen() override;
  bool OnFrame(grpc::ByteBuffer frame) override;
  void OnWritten() override;
  void OnEnd(const absl::Status& why) override;

 private:
  absl::Status CheckWelcome(grpc::ByteBuffer frame) const;
  // Hands the stream to the link.
  void Connected(std::shared_ptr<MeshStream> stream);
  void Fail(const absl::Status& why);

  const Options options_;
  const std::shared_ptr<MeshGroupState> group_;
  grpc::CompletionQueue* const queue_;
  StreamCount* const count_;

  std::mutex mutex_;
  // Time of the next attempt; none while one is under way, after success and after Stop().
  std::optional<std::chrono::steady_clock::time_point> due_ = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> unreached_since_ = due_;
  bool stopped_ = false;
  std::shared_ptr<MeshStream> stream_;
  bool hello_written_ = false;
  bool welcomed_ = false;
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_DIALER_H_
