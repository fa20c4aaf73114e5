#include "comm/mesh_server.h"

#include <grpc/grpc.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/mesh_admission.h"
#include "comm/mesh_dialer.h"
#include "comm/mesh_frame.h"
#include "comm/mesh_group_state.h"
#include "comm/mesh_stream.h"
#include "comm/mesh_transport.h"
#include "comm/unreachable_peers.h"
#include "common/secret.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// One copies what has arrived while the other reads from the sockets.
constexpr int kNumPollers = 2;

// Hellos that wait for their generation, at most.
constexpr size_t kMaxWaiting = 4096;

std::string Bracketed(const std::string& host) {
  const bool is_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
  return is_ipv6 ? absl::StrCat("[", host, "]") : host;
}

// gRPC shuts itself down with its last object, and may wait for 10 s of its own polling to end. One
// reference to it is never given back.
void KeepGrpc() {
  static const bool kept = (grpc_init(), true);
  (void)kept;
}

absl::Status CheckMembership(const MeshMembership& membership, int64_t incarnation) {
  const auto& [epoch, rank, members] = membership;
  if (rank < 0 || rank >= static_cast<int>(members.size())) {
    return absl::InvalidArgumentError(absl::StrCat("generation ", epoch.generation, ": rank ", rank,
                                                   " is none of ", members.size(), " members"));
  }
  const int64_t own = members[static_cast<size_t>(rank)].incarnation;
  if (own == incarnation) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("generation ", epoch.generation, ": rank ", rank,
                                                 " is incarnation ", own, ", this process is ",
                                                 incarnation));
}

}  // namespace

class MeshServer::State {
 public:
  explicit State(Options options) : options_(std::move(options)) {
    position_.run_id = options_.run_id;
    position_.incarnation = options_.incarnation;
  }

  absl::Status Start();
  void Stop();
  const std::string& address() const { return address_; }
  absl::StatusOr<std::unique_ptr<MeshGroup>> Join(const MeshMembership& membership);
  void Leave(MeshEpoch epoch, const absl::Status& reason);

 private:
  class Caller;

  void Poll();
  void AcceptNext();
  bool Authenticated(const MeshStream& stream) const;

  // Lets the caller in, sends it away or keeps it waiting. The first without, the others with the
  // mutex held, or after it.
  void Receive(const std::shared_ptr<Caller>& caller);
  // Judges those that wait again.
  void ReceiveWaiting();
  void Forget(const Caller* caller);

  absl::StatusOr<std::shared_ptr<MeshGroupState>> Enter(const MeshMembership& membership);
  std::vector<std::shared_ptr<MeshDialer>> Dialers(const MeshMembership& membership,
                                                   const std::shared_ptr<MeshGroupState>& group);

  const Options options_;
  std::string address_;
  MeshStream::Service service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  StreamCount streams_;
  std::vector<std::thread> pollers_;
  std::atomic<bool> stopping_ = false;

  std::mutex mutex_;
  MeshPosition position_;
  absl::Status over_reason_;               // of position_.over
  std::shared_ptr<MeshGroupState> group_;  // of position_.current
  std::list<std::shared_ptr<Caller>> waiting_;
};

// A stream that another trainer opened, until it is let in.
class MeshServer::State::Caller : public MeshStream::Receiver,
                                  public std::enable_shared_from_this<Caller> {
 public:
  explicit Caller(State* server) : server_(server) {}

  void Accept() {
    const std::lock_guard lock(mutex_);
    stream_ = MeshStream::Accept(&server_->service_, server_->queue_.get(), &server_->streams_,
                                 shared_from_this());
  }

  std::shared_ptr<MeshStream> stream() {
    const std::lock_guard lock(mutex_);
    return stream_;
  }
  // Valid from the first frame on.
  const mesh::v1::Hello& hello() const { return hello_; }

  void Refuse(const absl::Status& status) {
    if (const auto kept = stream()) kept->Refuse(status);
  }

  void OnOpen() override {
    server_->AcceptNext();
    const auto kept = stream();
    if (kept == nullptr || server_->Authenticated(*kept)) return;
    kept->Refuse(absl::UnauthenticatedError("this is not the run's token"));
  }

  bool OnFrame(grpc::ByteBuffer frame) override {
    absl::StatusOr<mesh::v1::Frame> decoded = DecodeFrame(std::move(frame));
    if (!decoded.ok() || !decoded->has_hello() || heard_) {
      Refuse(absl::InvalidArgumentError("expected one hello, and nothing before the welcome"));
      return false;
    }
    heard_ = true;
    hello_ = std::move(*decoded->mutable_hello());
    server_->Receive(shared_from_this());
    return true;
  }

  void OnWritten() override {}

  void OnEnd(const absl::Status&) override {
    server_->Forget(this);
    const std::lock_guard lock(mutex_);
    stream_ = nullptr;
  }

 private:
  State* const server_;
  bool heard_ = false;
  mesh::v1::Hello hello_;
  std::mutex mutex_;
  std::shared_ptr<MeshStream> stream_;
};

absl::Status MeshServer::State::Start() {
  KeepGrpc();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(absl::StrCat(Bracketed(options_.host), ":0"),
                           grpc::InsecureServerCredentials(), &port);
  ConfigureMeshServer(builder, options_.silence_limit);
  builder.RegisterService(&service_);
  queue_ = builder.AddCompletionQueue();
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    if (server_ != nullptr) server_->Shutdown();
    queue_->Shutdown();
    void* tag;
    bool ok;
    while (queue_->Next(&tag, &ok)) {
    }
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options_.host,
                     " for other trainers; it must be a name or an address of this machine"));
  }
  const std::string& host =
      options_.advertised_host.empty() ? options_.host : options_.advertised_host;
  address_ = absl::StrCat(Bracketed(host), ":", port);
  for (int i = 0; i < kNumPollers; ++i) {
    pollers_.emplace_back([this] { Poll(); });
    ::pthread_setname_np(pollers_.back().native_handle(), absl::StrCat("mesh-", i).c_str());
  }
  AcceptNext();
  return absl::OkStatus();
}

void MeshServer::State::Stop() {
  if (pollers_.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  Leave({std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()},
        absl::CancelledError("this process has left the mesh"));
  server_->Shutdown(std::chrono::system_clock::now());
  streams_.AwaitNone();
  queue_->Shutdown();
  for (std::thread& poller : pollers_) poller.join();
}

void MeshServer::State::Poll() {
  void* tag;
  bool ok;
  while (queue_->Next(&tag, &ok)) static_cast<CompletionTag*>(tag)->Complete(ok);
}

void MeshServer::State::AcceptNext() {
  // With the mutex held, so that nothing is begun once Stop() waits for the streams.
  const std::lock_guard lock(mutex_);
  if (!stopping_) std::make_shared<Caller>(this)->Accept();
}

bool MeshServer::State::Authenticated(const MeshStream& stream) const {
  return options_.token.empty() ||
         SecretsEqual(stream.Metadata("authorization"), absl::StrCat("Bearer ", options_.token));
}

void MeshServer::State::Receive(const std::shared_ptr<Caller>& caller) {
  const mesh::v1::Hello& hello = caller->hello();
  absl::Status refusal;
  std::shared_ptr<MeshGroupState> group;
  {
    const std::lock_guard lock(mutex_);
    const absl::StatusOr<Admission> admission = JudgeHello(hello, position_);
    if (!admission.ok()) {
      refusal = admission.status();
    } else if (*admission == Admission::kNow) {
      group = group_;
    } else if (waiting_.size() < kMaxWaiting) {
      waiting_.push_back(caller);
    } else {
      refusal = absl::ResourceExhaustedError("too many trainers wait for later generations");
    }
  }
  const auto stream = caller->stream();
  if (group != nullptr && stream != nullptr) {
    mesh::v1::Frame welcome;
    welcome.mutable_welcome()->set_incarnation(options_.incarnation);
    const auto& link =
        group->link(static_cast<int>(hello.sender_rank()), static_cast<Lane>(hello.lane()));
    if (!link->Attach(stream, EncodeFrame(welcome))) {
      refusal = absl::FailedPreconditionError(
          group->status().ok() ? "that rank is connected already"
                               : absl::StrCat("generation ", hello.epoch().generation(),
                                              " has ended here: ", group->status().message()));
    }
  }
  if (!refusal.ok()) caller->Refuse(refusal);
}

void MeshServer::State::ReceiveWaiting() {
  std::list<std::shared_ptr<Caller>> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
  }
  for (const auto& caller : waiting) Receive(caller);
}

void MeshServer::State::Forget(const Caller* caller) {
  std::list<std::shared_ptr<Caller>> forgotten;
  const std::lock_guard lock(mutex_);
  for (auto each = waiting_.begin(); each != waiting_.end();) {
    const auto next = std::next(each);
    if (each->get() == caller) forgotten.splice(forgotten.end(), waiting_, each);
    each = next;
  }
}

absl::StatusOr<std::unique_ptr<MeshGroup>> MeshServer::State::Join(
    const MeshMembership& membership) {
  if (absl::Status status = CheckMembership(membership, options_.incarnation); !status.ok()) {
    return status;
  }
  absl::StatusOr<std::shared_ptr<MeshGroupState>> entered = Enter(membership);
  if (!entered.ok()) return entered.status();
  const std::shared_ptr<MeshGroupState> group = *std::move(entered);
  const auto dialers = Dialers(membership, group);
  ReceiveWaiting();

  int64_t changes = 0;
  while (group->status().ok() && !group->Connected()) {
    Clock::time_point due = Clock::time_point::max();
    std::vector<UnreachablePeer> unreachable;
    for (const auto& dialer : dialers) {
      due = std::min(due, dialer->DialWhenDue());
      const auto since = dialer->UnreachedSince();
      if (!since) continue;
      const Clock::time_point limit = *since + options_.silence_limit;
      due = std::min(due, limit);
      const UnreachablePeer peer = {dialer->peer(), dialer->address()};
      // Two lanes lead to each.
      const bool is_known = !unreachable.empty() && unreachable.back() == peer;
      if (Clock::now() >= limit && !is_known) unreachable.push_back(peer);
    }
    if (!unreachable.empty()) {
      group->Fail(UnreachableError(unreachable, options_.silence_limit));
      break;
    }
    changes = group->AwaitChange(changes, due);
  }
  for (const auto& dialer : dialers) dialer->Stop();
  if (const absl::Status status = group->status(); !status.ok()) {
    Leave(membership.epoch, status);
    return status;
  }
  return std::make_unique<MeshGroup>(group);
}

void MeshServer::State::Leave(MeshEpoch epoch, const absl::Status& reason) {
  std::shared_ptr<MeshGroupState> left;
  {
    const std::lock_guard lock(mutex_);
    if (epoch > position_.over) {
      position_.over = epoch;
      over_reason_ = reason;
    }
    if (position_.current && position_.current->epoch <= epoch) {
      position_.current = std::nullopt;
      left = std::move(group_);
    }
  }
  if (left != nullptr) left->Fail(reason);
  ReceiveWaiting();
}

absl::StatusOr<std::shared_ptr<MeshGroupState>> MeshServer::State::Enter(
    const MeshMembership& membership) {
  const MeshEpoch& epoch = membership.epoch;
  std::shared_ptr<MeshGroupState> left;
  std::shared_ptr<MeshGroupState> entered;
  {
    const std::lock_guard lock(mutex_);
    if (epoch <= position_.over) return over_reason_;
    if (position_.current && epoch <= position_.current->epoch) {
      return absl::FailedPreconditionError(absl::StrCat(
          "generation ", epoch.generation, " of term ", epoch.term,
          " cannot be entered: this process is in generation ", position_.current->epoch.generation,
          " of term ", position_.current->epoch.term));
    }
    left = std::move(group_);
    position_.current = membership;
    group_ = MeshGroupState::Create(membership);
    entered = group_;
  }
  if (left != nullptr) {
    left->Fail(absl::AbortedError(absl::StrCat("left for generation ", epoch.generation)));
  }
  return entered;
}

std::vector<std::shared_ptr<MeshDialer>> MeshServer::State::Dialers(
    const MeshMembership& membership, const std::shared_ptr<MeshGroupState>& group) {
  std::vector<std::shared_ptr<MeshDialer>> dialers;
  for (int peer = 0; peer < membership.rank; ++peer) {
    const MeshMember& member = membership.members[static_cast<size_t>(peer)];
    for (int lane = 0; lane < kNumLanes; ++lane) {
      mesh::v1::Hello hello;
      hello.mutable_epoch()->set_run_id(options_.run_id);
      hello.mutable_epoch()->set_term(membership.epoch.term);
      hello.mutable_epoch()->set_generation(membership.epoch.generation);
      hello.set_lane(static_cast<uint32_t>(lane));
      hello.set_sender_rank(static_cast<uint32_t>(membership.rank));
      hello.set_sender_incarnation(options_.incarnation);
      hello.set_receiver_rank(static_cast<uint32_t>(peer));
      hello.set_receiver_incarnation(member.incarnation);
      dialers.push_back(std::make_shared<MeshDialer>(
          MeshDialer::Options{member.address, options_.token, options_.silence_limit,
                              std::move(hello)},
          group, queue_.get(), &streams_));
    }
  }
  return dialers;
}

absl::StatusOr<std::unique_ptr<MeshServer>> MeshServer::Start(Options options) {
  auto state = std::make_unique<State>(std::move(options));
  if (absl::Status status = state->Start(); !status.ok()) return status;
  return std::unique_ptr<MeshServer>(new MeshServer(std::move(state)));
}

MeshServer::MeshServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

MeshServer::~MeshServer() { state_->Stop(); }

const std::string& MeshServer::address() const { return state_->address(); }

absl::StatusOr<std::unique_ptr<MeshGroup>> MeshServer::Join(const MeshMembership& membership) {
  return state_->Join(membership);
}

void MeshServer::Leave(MeshEpoch epoch, absl::Status reason) { state_->Leave(epoch, reason); }

}  // namespace albef
