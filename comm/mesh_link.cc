#include "comm/mesh_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace albef {
namespace {

// What may wait for its receive: enough for a peer that is ahead not to notice.
constexpr size_t kMaxEarlyBytes = 8 << 20;

}  // namespace

MeshLink::MeshLink(std::weak_ptr<Listener> listener, int peer, std::string peer_name)
    : listener_(std::move(listener)), peer_(peer), peer_name_(std::move(peer_name)) {}

bool MeshLink::Attach(std::shared_ptr<MeshStream> stream,
                      std::optional<grpc::ByteBuffer> greeting) {
  {
    const std::scoped_lock lock(receive_mutex_, send_mutex_);
    if (stream_ != nullptr || !failure_.ok()) return false;
    stream_ = stream;
    greeting_ = std::move(greeting);
  }
  if (!stream->SetReceiver(shared_from_this())) {
    Lost(Named(absl::UnavailableError("connection closed")));
    return true;
  }
  Pump();
  if (const auto listener = listener_.lock()) listener->OnChange();
  return true;
}

bool MeshLink::Attached() const {
  const std::lock_guard lock(send_mutex_);
  return stream_ != nullptr;
}

void MeshLink::Post(Outgoing send) {
  absl::Status failure;
  {
    const std::lock_guard lock(send_mutex_);
    failure = failure_.ok() && (peer_left_ || ended_) ? PeerLeft() : failure_;
    if (failure.ok()) sends_.push_back(std::move(send));
  }
  if (failure.ok()) return Pump();
  send.operation->Fail(failure);
  Lost(failure);
}

void MeshLink::Post(Incoming receive) {
  absl::Status failure;
  std::shared_ptr<MeshStream> resumed;
  {
    const std::lock_guard lock(receive_mutex_);
    failure = failure_;
    if (failure.ok() && early_.empty() && (peer_left_ || ended_)) failure = PeerLeft();
    if (failure.ok()) {
      receives_.push_back(receive);
      while (failure.ok() && !early_.empty() && Expected(early_.front())) {
        grpc::ByteBuffer frame = std::move(early_.front());
        early_.pop_front();
        early_bytes_ -= frame.Length();
        failure = Take(std::move(frame));
      }
      if (paused_ && early_bytes_ < kMaxEarlyBytes) {
        paused_ = false;
        resumed = stream_;
      }
    }
  }
  if (resumed != nullptr) resumed->Resume();
  if (failure.ok()) return AnswerFarewell();
  receive.operation->Fail(failure);
  Lost(failure);
}

void MeshLink::Leave() {
  {
    const std::lock_guard lock(send_mutex_);
    if (farewell_ == Farewell::kNone) farewell_ = Farewell::kDue;
  }
  Pump();
}

bool MeshLink::Closed() const {
  const std::scoped_lock lock(receive_mutex_, send_mutex_);
  return ended_ || (peer_left_ && farewell_ == Farewell::kSent && !writing_);
}

void MeshLink::Fail(const absl::Status& why) {
  std::deque<Outgoing> sends;
  std::deque<Incoming> receives;
  std::deque<grpc::ByteBuffer> early;
  std::optional<grpc::ByteBuffer> greeting;
  std::shared_ptr<MeshStream> stream;
  {
    const std::scoped_lock lock(receive_mutex_, send_mutex_);
    if (failure_.ok()) failure_ = why;
    sends.swap(sends_);
    receives.swap(receives_);
    early.swap(early_);
    greeting.swap(greeting_);
    stream = std::move(stream_);
  }
  if (stream != nullptr) stream->Cancel();
  for (const Outgoing& send : sends) send.operation->Fail(why);
  for (const Incoming& receive : receives) receive.operation->Fail(why);
}

bool MeshLink::OnFrame(grpc::ByteBuffer frame) {
  absl::Status status;
  {
    const std::lock_guard lock(receive_mutex_);
    if (!failure_.ok()) return false;
    if (!early_.empty() || !Expected(frame)) {
      early_bytes_ += frame.Length();
      farewell_early_ = !IsChunk(frame);
      early_.push_back(std::move(frame));
      paused_ = early_bytes_ >= kMaxEarlyBytes;
      return !paused_;
    }
    status = Take(std::move(frame));
  }
  if (!status.ok()) {
    Lost(status);
    return false;
  }
  AnswerFarewell();
  return true;
}

void MeshLink::OnWritten() {
  std::shared_ptr<Operation> done;
  bool closed = false;
  {
    const std::lock_guard lock(send_mutex_);
    writing_ = false;
    if (!sends_.empty() && sent_ == sends_.front().bytes.size()) {
      done = std::move(sends_.front().operation);
      bytes_sent_ += static_cast<int64_t>(sent_);
      sends_.pop_front();
      sent_ = 0;
    }
    closed = farewell_ == Farewell::kSent;
  }
  if (done != nullptr) done->TransferDone(peer_);
  Pump();
  if (!closed) return;
  if (const auto listener = listener_.lock()) listener->OnChange();
}

void MeshLink::OnEnd(const absl::Status& why) {
  bool expected;
  {
    const std::scoped_lock lock(receive_mutex_, send_mutex_);
    ended_ = true;
    stream_ = nullptr;
    if (!failure_.ok()) return;
    expected = (peer_left_ || farewell_early_) && sends_.empty() && receives_.empty();
  }
  if (!expected) {
    Lost(Named(absl::UnavailableError(why.message())));
  } else if (const auto listener = listener_.lock()) {
    listener->OnChange();
  }
}

void MeshLink::Pump() {
  std::shared_ptr<MeshStream> stream;
  std::optional<grpc::ByteBuffer> frame;
  {
    const std::lock_guard lock(send_mutex_);
    if (writing_ || stream_ == nullptr) return;
    frame = NextFrame();
    if (!frame) return;
    writing_ = true;
    stream = stream_;
  }
  stream->Write(*frame);
}

std::optional<grpc::ByteBuffer> MeshLink::NextFrame() {
  if (greeting_) return std::exchange(greeting_, std::nullopt);
  if (!sends_.empty()) {
    const Outgoing& send = sends_.front();
    const auto chunk =
        send.bytes.subspan(sent_, std::min(kMaxChunkBytes, send.bytes.size() - sent_));
    const ChunkHeader header{send.index, send.bytes.size(), sent_};
    sent_ += chunk.size();
    return EncodeChunk(header, chunk, send.owner);
  }
  if (farewell_ == Farewell::kDue) {
    farewell_ = Farewell::kSent;
    mesh::v1::Frame frame;
    frame.mutable_farewell();
    return EncodeFrame(frame);
  }
  return std::nullopt;
}

bool MeshLink::Expected(grpc::ByteBuffer& frame) const {
  return !receives_.empty() || !IsChunk(frame);
}

absl::Status MeshLink::Take(grpc::ByteBuffer frame) {
  if (IsChunk(frame)) {
    const absl::Status status = TakeChunk(std::move(frame));
    return status.ok() ? status : Named(status);
  }
  const absl::StatusOr<mesh::v1::Frame> decoded = DecodeFrame(std::move(frame));
  if (!decoded.ok()) return Named(decoded.status());
  if (decoded->has_farewell()) return TakeFarewell();
  return Named(absl::InvalidArgumentError("neither a chunk nor a farewell"));
}

absl::Status MeshLink::TakeChunk(grpc::ByteBuffer frame) {
  if (receives_.empty()) return absl::InternalError("a chunk that nobody waits for");
  absl::Status status = DecodeChunk(
      std::move(frame),
      [this](const ChunkHeader& header, size_t num_bytes) { return Place(header, num_bytes); });
  if (!status.ok()) return status;
  Incoming& receive = receives_.front();
  if (received_ < receive.bytes.size()) return status;
  bytes_received_ += static_cast<int64_t>(received_);
  receive.operation->TransferDone(peer_);
  receives_.pop_front();
  received_ = 0;
  return status;
}

absl::StatusOr<std::byte*> MeshLink::Place(const ChunkHeader& header, size_t num_bytes) {
  const Incoming& receive = receives_.front();
  if (header.operation != receive.index || header.size != receive.bytes.size()) {
    return absl::InternalError(
        absl::StrCat("sends ", header.size, " bytes for operation ", header.operation,
                     " of this lane where ", receive.bytes.size(), " are expected for ",
                     receive.operation->name(), ", which is ", receive.index));
  }
  if (header.offset != received_ || num_bytes > receive.bytes.size() - received_) {
    return absl::InternalError(absl::StrCat(
        "sends bytes from ", header.offset, " on where those from ", received_,
        " on are expected, of ", receive.bytes.size(), " for ", receive.operation->name()));
  }
  std::byte* const place = receive.bytes.data() + received_;
  received_ += num_bytes;
  return place;
}

absl::Status MeshLink::TakeFarewell() {
  const std::lock_guard lock(send_mutex_);
  peer_left_ = true;
  if (!receives_.empty() || !sends_.empty()) return PeerLeft();
  if (farewell_ == Farewell::kNone) farewell_ = Farewell::kDue;
  return absl::OkStatus();
}

void MeshLink::AnswerFarewell() {
  {
    const std::lock_guard lock(send_mutex_);
    if (!peer_left_) return;
  }
  Pump();
  if (const auto listener = listener_.lock()) listener->OnChange();
}

void MeshLink::Lost(const absl::Status& why) {
  if (const auto listener = listener_.lock()) listener->OnLost(why);
}

absl::Status MeshLink::Named(const absl::Status& why) const {
  return absl::Status(why.code(),
                      absl::StrCat("peer rank ", peer_, " at ", peer_name_, ": ", why.message()));
}

absl::Status MeshLink::PeerLeft() const { return Named(absl::UnavailableError("it has left")); }

}  // namespace albef
