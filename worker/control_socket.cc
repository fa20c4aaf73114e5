#include "worker/control_socket.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <system_error>

#include "common/status_macros.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kHeaderBytes = 4;
constexpr size_t kReadBytes = size_t{64} << 10;

// A moment up to which poll() is repeated.
class Deadline {
 public:
  explicit Deadline(std::optional<milliseconds> timeout) {
    if (timeout.has_value()) end_ = steady_clock::now() + *timeout;
  }

  // For poll(): -1 without an end.
  int remaining_ms() const {
    if (!end_.has_value()) return -1;
    const auto left = std::chrono::ceil<milliseconds>(*end_ - steady_clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
  }

 private:
  std::optional<steady_clock::time_point> end_;
};

// Waits for `events`; false when the deadline has passed.
bool WaitFor(int fd, int16_t events, const Deadline& deadline) {
  while (true) {
    const int timeout_ms = deadline.remaining_ms();
    pollfd entry = {.fd = fd, .events = events, .revents = 0};
    const int count = ::poll(&entry, 1, timeout_ms);
    if (count > 0) return true;  // also for errors: the next call names them
    if (count == 0 && timeout_ms >= 0 && deadline.remaining_ms() == 0) return false;
    if (count < 0 && errno != EINTR) return true;
  }
}

uint32_t DecodeLength(const char* bytes) {
  uint32_t length = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    length |= uint32_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return length;
}

}  // namespace

absl::StatusOr<std::pair<FileDescriptor, FileDescriptor>> ControlSocket::MakePair() {
  std::array<int, 2> fds;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return ErrnoStatus(errno, "create", "control socket");
  }
  return std::pair(FileDescriptor(fds[0]), FileDescriptor(fds[1]));
}

ControlSocket::ControlSocket(FileDescriptor fd, std::string peer)
    : fd_(std::move(fd)), peer_(std::move(peer)) {}

absl::Status ControlSocket::Broken(std::string_view what) const {
  return absl::UnavailableError(fmt::format("control socket to {}: {}", peer_, what));
}

absl::Status ControlSocket::Append(const google::protobuf::MessageLite& message) {
  const size_t bytes = message.ByteSizeLong();
  if (bytes > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        fmt::format("control socket to {}: a {} of {} bytes, more than the {} of a frame", peer_,
                    message.GetTypeName(), bytes, kMaxFrameBytes));
  }
  if (pending_.size() - written_ + kHeaderBytes + bytes > kMaxPendingBytes) {
    return absl::ResourceExhaustedError(
        fmt::format("control socket to {}: {} bytes wait already; it does not read", peer_,
                    pending_.size() - written_));
  }
  pending_.erase(0, std::exchange(written_, 0));
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    pending_.push_back(static_cast<char>(static_cast<uint32_t>(bytes) >> (8 * i)));
  }
  message.AppendPartialToString(&pending_);
  return absl::OkStatus();
}

absl::Status ControlSocket::WriteSome() {
  while (written_ < pending_.size()) {
    const ssize_t count = ::send(fd_.get(), pending_.data() + written_, pending_.size() - written_,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) {
      written_ += static_cast<size_t>(count);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return absl::OkStatus();
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return Broken("it has closed its end");
    } else if (errno != EINTR) {
      return Broken(std::generic_category().message(errno));
    }
  }
  pending_.clear();
  written_ = 0;
  return absl::OkStatus();
}

absl::Status ControlSocket::Send(const google::protobuf::MessageLite& message,
                                 std::optional<milliseconds> timeout) {
  const Deadline deadline(timeout);
  std::lock_guard lock(send_mutex_);
  RETURN_IF_ERROR(Append(message));
  while (true) {
    RETURN_IF_ERROR(WriteSome());
    if (pending_.empty()) return absl::OkStatus();
    if (!WaitFor(fd_.get(), POLLOUT, deadline)) {
      return absl::DeadlineExceededError(
          fmt::format("control socket to {}: it has not read for {} ms", peer_, timeout->count()));
    }
  }
}

absl::Status ControlSocket::Queue(const google::protobuf::MessageLite& message) {
  std::lock_guard lock(send_mutex_);
  RETURN_IF_ERROR(Append(message));
  return WriteSome();
}

absl::Status ControlSocket::Flush() {
  std::lock_guard lock(send_mutex_);
  return WriteSome();
}

bool ControlSocket::has_pending() const {
  std::lock_guard lock(send_mutex_);
  return !pending_.empty();
}

absl::StatusOr<bool> ControlSocket::TakeFrame(google::protobuf::MessageLite& message) {
  const size_t available = received_.size() - taken_;
  if (available < kHeaderBytes) return false;
  const size_t bytes = DecodeLength(received_.data() + taken_);
  if (bytes > kMaxFrameBytes) {
    return absl::DataLossError(fmt::format(
        "control socket to {}: a frame of {} bytes, more than the {} allowed; is the other side of "
        "the same version?",
        peer_, bytes, kMaxFrameBytes));
  }
  if (available < kHeaderBytes + bytes) return false;
  if (!message.ParseFromArray(received_.data() + taken_ + kHeaderBytes, static_cast<int>(bytes))) {
    return absl::DataLossError(fmt::format(
        "control socket to {}: a frame of {} bytes is no {}; is the other side of the same "
        "version?",
        peer_, bytes, message.GetTypeName()));
  }
  taken_ += kHeaderBytes + bytes;
  return true;
}

absl::StatusOr<ControlSocket::Received> ControlSocket::Receive(
    google::protobuf::MessageLite& message, std::optional<milliseconds> timeout) {
  const Deadline deadline(timeout);
  RETURN_IF_ERROR(receive_status_);
  while (true) {
    absl::StatusOr<bool> taken = TakeFrame(message);
    if (!taken.ok()) return receive_status_ = taken.status();
    if (*taken) return Received::kMessage;

    received_.erase(0, std::exchange(taken_, 0));
    const size_t used = received_.size();
    received_.resize(used + kReadBytes);
    const ssize_t count = ::recv(fd_.get(), received_.data() + used, kReadBytes, MSG_DONTWAIT);
    const int error = errno;
    received_.resize(used + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count > 0 || (count < 0 && error == EINTR)) continue;
    // A peer that dies with unread messages in its socket shows as a reset.
    if (count == 0 || error == ECONNRESET) {
      if (received_.empty()) return Received::kEnd;
      return receive_status_ = absl::DataLossError(
                 fmt::format("control socket to {}: it ended in the middle of a frame", peer_));
    }
    if (error != EAGAIN && error != EWOULDBLOCK) {
      return Broken(std::generic_category().message(error));
    }
    if (!WaitFor(fd_.get(), POLLIN, deadline)) return Received::kNothing;
  }
}

void ControlSocket::Shutdown() { ::shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace albef
