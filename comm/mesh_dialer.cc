#include "comm/mesh_dialer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/mesh_frame.h"
#include "comm/mesh_transport.h"
#include "common/status_macros.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// Before a peer is dialled again whose connection broke; one that does not listen is gRPC's to
// retry.
constexpr std::chrono::milliseconds kRedialDelay{50};

bool IsRefusal(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

}  // namespace

MeshDialer::MeshDialer(Options options, std::shared_ptr<MeshGroupState> group,
                       grpc::CompletionQueue* queue, StreamCount* count)
    : options_(std::move(options)), group_(std::move(group)), queue_(queue), count_(count) {}

Clock::time_point MeshDialer::DialWhenDue() {
  const std::lock_guard lock(mutex_);
  if (!due_) return Clock::time_point::max();
  if (Clock::now() < *due_) return *due_;
  due_ = std::nullopt;
  hello_written_ = false;
  welcomed_ = false;
  // Its calls wait for this lock.
  stream_ = MeshStream::Dial(MeshChannel(options_.address, options_.silence_limit), options_.token,
                             queue_, count_, shared_from_this());
  return Clock::time_point::max();
}

std::optional<Clock::time_point> MeshDialer::UnreachedSince() {
  const std::lock_guard lock(mutex_);
  return unreached_since_;
}

void MeshDialer::Stop() {
  std::shared_ptr<MeshStream> stream;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    due_ = std::nullopt;
    stream = std::move(stream_);
  }
  if (stream != nullptr) stream->Cancel();
}

void MeshDialer::OnOpen() {
  std::shared_ptr<MeshStream> stream;
  {
    const std::lock_guard lock(mutex_);
    unreached_since_ = std::nullopt;
    stream = stream_;
  }
  if (stream == nullptr) return;
  mesh::v1::Frame frame;
  *frame.mutable_hello() = options_.hello;
  stream->Write(EncodeFrame(frame));
}

bool MeshDialer::OnFrame(grpc::ByteBuffer frame) {
  if (const absl::Status status = CheckWelcome(std::move(frame)); !status.ok()) {
    Fail(status);
    return false;
  }
  std::shared_ptr<MeshStream> stream;
  {
    const std::lock_guard lock(mutex_);
    welcomed_ = true;
    // Else OnWritten() goes on, before anything else is read.
    if (hello_written_) stream = std::move(stream_);
  }
  if (stream == nullptr) return false;
  Connected(std::move(stream));
  return true;
}

void MeshDialer::OnWritten() {
  std::shared_ptr<MeshStream> stream;
  {
    const std::lock_guard lock(mutex_);
    hello_written_ = true;
    if (welcomed_) stream = std::move(stream_);
  }
  if (stream == nullptr) return;
  Connected(stream);
  stream->Resume();
}

void MeshDialer::OnEnd(const absl::Status& why) {
  {
    const std::lock_guard lock(mutex_);
    stream_ = nullptr;
    if (stopped_) return;
    if (!IsRefusal(why.code())) {
      due_ = Clock::now() + kRedialDelay;
      if (!unreached_since_) unreached_since_ = Clock::now();
    }
  }
  if (IsRefusal(why.code())) {
    Fail(why);
  } else {
    group_->Notify();
  }
}

absl::Status MeshDialer::CheckWelcome(grpc::ByteBuffer frame) const {
  ASSIGN_OR_RETURN(const mesh::v1::Frame decoded, DecodeFrame(std::move(frame)));
  if (!decoded.has_welcome()) return absl::InvalidArgumentError("answers a hello with no welcome");
  if (decoded.welcome().incarnation() != options_.hello.receiver_incarnation()) {
    return absl::FailedPreconditionError(
        absl::StrCat("is incarnation ", decoded.welcome().incarnation(), " where ",
                     options_.hello.receiver_incarnation(), " is the member"));
  }
  return absl::OkStatus();
}

void MeshDialer::Connected(std::shared_ptr<MeshStream> stream) {
  const auto& link = group_->link(static_cast<int>(options_.hello.receiver_rank()),
                                  static_cast<Lane>(options_.hello.lane()));
  if (!link->Attach(stream, std::nullopt)) stream->Cancel();
}

void MeshDialer::Fail(const absl::Status& why) {
  group_->Fail(
      absl::Status(why.code(), absl::StrCat("peer rank ", options_.hello.receiver_rank(), " at ",
                                            options_.address, ": ", why.message())));
}

}  // namespace albef
