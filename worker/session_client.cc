#include "worker/session_client.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/network_address.h"
#include "proto/coordinator.grpc.pb.h"

namespace albef {
namespace {

using std::chrono::milliseconds;

constexpr int kMaxMessageBytes = 64 << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, milliseconds connect_limit) {
  grpc::ChannelArguments arguments;
  // Every attempt is a channel of its own, whose failures must not slow down the next.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // Despite its name also what one attempt is given to connect.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(connect_limit.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status FromGrpc(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::UnavailableError(address + ": the coordinator ended the session");
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      fmt::format("{}: {}", address, status.error_message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionClient>> SessionClient::Start(Options options) {
  FileDescriptor event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return ErrnoStatus(errno, "create event for", "the session");
  return std::unique_ptr<SessionClient>(new SessionClient(std::move(options), std::move(event)));
}

SessionClient::SessionClient(Options options, FileDescriptor event)
    : options_(std::move(options)), event_(std::move(event)), thread_([this] { Run(); }) {
  ::pthread_setname_np(thread_.native_handle(), "session");
}

SessionClient::~SessionClient() {
  {
    std::lock_guard lock(mutex_);
    is_stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
    changed_.notify_all();
  }
  thread_.join();
}

std::vector<SessionEvent> SessionClient::TakeEvents() {
  std::lock_guard lock(mutex_);
  eventfd_t count = 0;
  ::eventfd_read(event_.get(), &count);
  return std::exchange(events_, {});
}

void SessionClient::Post(SessionEvent event) {
  std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  ::eventfd_write(event_.get(), 1);
}

void SessionClient::Send(uint64_t stream, v1::WorkerMessage message) {
  std::lock_guard lock(mutex_);
  if (stream == 0 || stream != stream_ || closed_with_.has_value()) return;
  queued_bytes_ += message.ByteSizeLong();
  queue_.push_back(std::move(message));
  if (queued_bytes_ > options_.max_queued_bytes) {
    closed_with_ = absl::ResourceExhaustedError(
        fmt::format("the coordinator does not read: {} bytes wait for it", queued_bytes_));
    context_->TryCancel();
  }
  changed_.notify_all();
}

void SessionClient::Close(uint64_t stream, absl::Status status) {
  std::lock_guard lock(mutex_);
  if (stream == 0 || stream != stream_ || closed_with_.has_value()) return;
  closed_with_ = std::move(status);
  context_->TryCancel();
}

void SessionClient::Flush(milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit,
                    [this] { return stream_ == 0 || (queue_.empty() && !is_writing_); });
}

bool SessionClient::Pause(milliseconds duration) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, duration, [this] { return is_stopping_; });
}

void SessionClient::Run() {
  milliseconds pause = options_.min_pause;
  while (true) {
    const CoordinatorSighting sighting = options_.look();
    Post(session_event::Sighted{sighting});
    const uint64_t before = last_stream_;  // written by this thread only
    if (!sighting.address.empty()) Dial(sighting);
    pause = last_stream_ != before ? options_.min_pause : std::min(2 * pause, options_.max_pause);
    if (!Pause(pause)) return;
  }
}

void SessionClient::Dial(const CoordinatorSighting& sighting) {
  constexpr milliseconds kSlice{100};
  const auto channel = MakeChannel(sighting.address, options_.connect_limit);
  const auto limit = std::chrono::steady_clock::now() + options_.connect_limit;
  // A refused connection is known at once, a lost packet never.
  while (true) {
    if (channel->WaitForConnected(std::chrono::system_clock::now() + kSlice)) break;
    const bool is_refused =
        channel->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_TRANSIENT_FAILURE;
    if (is_refused || std::chrono::steady_clock::now() >= limit) {
      return Post(session_event::Closed{
          0, absl::UnavailableError(fmt::format("{}: nobody answers there", sighting.address))});
    }
    if (!Pause(milliseconds(0))) return;
  }

  grpc::ClientContext context;
  if (!sighting.authorization.empty()) context.AddMetadata("authorization", sighting.authorization);
  const auto stub = v1::WorkerSession::NewStub(channel);
  const auto stream = stub->Session(&context);
  uint64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    number = ++last_stream_;
    stream_ = number;
    context_ = &context;
    queue_.clear();
    queued_bytes_ = 0;
    closed_with_.reset();
    if (is_stopping_) context.TryCancel();
  }
  Post(session_event::Opened{
      number, sighting.address,
      LocalAddressTowards(sighting.address).value_or(HostOf(sighting.address))});

  std::thread writer([&] {
    ::pthread_setname_np(::pthread_self(), "session_writer");
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stream_ != number || is_stopping_ || !queue_.empty(); });
      if (stream_ != number || is_stopping_) return;
      const v1::WorkerMessage message = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= message.ByteSizeLong();
      is_writing_ = true;
      lock.unlock();
      const bool is_written = stream->Write(message);
      lock.lock();
      is_writing_ = false;
      changed_.notify_all();
      if (!is_written) return;  // the reader learns why
    }
  });
  v1::CoordinatorMessage message;
  while (stream->Read(&message)) Post(session_event::Received{number, std::move(message)});
  {
    std::unique_lock lock(mutex_);
    stream_ = 0;
    changed_.notify_all();
    // To cancel a stream that has ended by itself could hide why.
    constexpr milliseconds kWriteLimit{500};
    if (!changed_.wait_for(lock, kWriteLimit, [this] { return !is_writing_; })) context.TryCancel();
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  std::optional<absl::Status> closed_with;
  {
    std::lock_guard lock(mutex_);
    context_ = nullptr;
    closed_with = std::exchange(closed_with_, std::nullopt);
  }
  Post(session_event::Closed{number, closed_with.value_or(FromGrpc(status, sighting.address))});
}

}  // namespace albef
