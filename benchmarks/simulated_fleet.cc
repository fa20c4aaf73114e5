#include "benchmarks/simulated_fleet.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <span>
#include <utility>

#include "checkpoint/shards.h"
#include "checkpoint/store.h"
#include "coordinator/call_credentials.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/run_token.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kStateElements = 1024;

// As worker/session_client.h and worker/supervisor.h have them.
constexpr Clock::duration kMinPause = std::chrono::milliseconds(50);
constexpr Clock::duration kMaxPause = std::chrono::milliseconds(200);
constexpr Clock::duration kHeartbeat = std::chrono::milliseconds(200);

Clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

bool Has(uint32_t flags, v1::Flag flag) { return (flags & static_cast<uint32_t>(flag)) != 0; }

std::string HashBytes16(const Hash128& hash) {
  std::string bytes;
  for (const uint64_t word : {hash.high, hash.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 0xff);
  }
  return bytes;
}

}  // namespace

struct SimulatedFleet::Trainer {
  int64_t incarnation = 0;
  v1::TrainerPhase phase = v1::TRAINER_PHASE_STARTING;
  int64_t prepared = 0;
  v1::Assign assign;  // without its members
  int num_members = 0;
  bool has_state = false;
  int64_t iteration = 0;
  uint32_t flags = 0;
  int64_t checkpoint_step = -1;  // newest taken in the prepared generation
  v1::Parked parked;
  v1::Synced synced;
  v1::Held held;
  std::optional<v1::ShardWritten> shard;
};

struct SimulatedFleet::Worker {
  std::string id, host;
  int64_t order = 0;
  std::shared_ptr<Stream> stream;  // the newest; null: dials at redial_at
  bool is_welcome = false;
  bool is_lost = false;
  Clock::time_point redial_at = {};
  Clock::duration redial_pause = kMinPause;
  Clock::time_point heard_at = {};  // the coordinator
  Clock::time_point heartbeat_at = {};
  Clock::duration heartbeat_interval = kHeartbeat;
  std::optional<Trainer> trainer;
  int64_t generation = 0;  // newest prepared
  int64_t term = 0;
  std::string run_id;
  int64_t last_sequence = 0;
  std::deque<v1::WorkerMessage> backlog;  // reports, not acknowledged
  std::optional<int> exit_code;
  absl::Status ended_with;
};

class SimulatedFleet::Stream final
    : public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  Stream(SimulatedFleet* fleet, Worker* worker, std::shared_ptr<v1::WorkerSession::Stub> stub)
      : fleet_(fleet), worker_(worker), stub_(std::move(stub)) {}

  Worker& worker() { return *worker_; }

  void Begin(const std::string& token) {
    context_.AddMetadata("authorization", AuthorizationOf(token));
    stub_->async()->Session(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  // With the fleet's mutex held, as the next three.
  void Send(v1::WorkerMessage message) {
    if (is_closed_) return;
    queue_.push_back(std::move(message));
    if (!is_writing_) WriteNext();
  }
  void EndWrites() {
    if (std::exchange(wants_end_, true) || is_closed_) return;
    if (!is_writing_) FinishWrites();
  }
  void Cancel() {
    context_.TryCancel();
    Release();
  }

  void OnReadDone(bool is_ok) override {
    const std::lock_guard lock(fleet_->mutex_);
    if (!is_ok) return Release();
    if (worker_->stream.get() == this) fleet_->Receive(*worker_, incoming_);
    ++fleet_->num_received_;
    incoming_.Clear();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool is_ok) override {
    const std::lock_guard lock(fleet_->mutex_);
    is_writing_ = false;
    queue_.pop_front();
    if (!is_ok) return Release();
    if (!queue_.empty()) return WriteNext();
    if (wants_end_) FinishWrites();
  }

  void OnDone(const grpc::Status& status) override { fleet_->OnStreamDone(this, FromGrpc(status)); }

 private:
  void WriteNext() {
    is_writing_ = true;
    ++fleet_->num_sent_;
    StartWrite(&queue_.front());
  }
  void FinishWrites() {
    if (!is_closed_) StartWritesDone();
    Release();
  }
  void Release() {
    is_closed_ = true;
    if (!std::exchange(is_released_, true)) RemoveHold();
  }

  SimulatedFleet* const fleet_;
  Worker* const worker_;
  const std::shared_ptr<v1::WorkerSession::Stub> stub_;
  grpc::ClientContext context_;
  v1::CoordinatorMessage incoming_;
  std::deque<v1::WorkerMessage> queue_;
  bool is_writing_ = false;
  bool is_closed_ = false;
  bool is_released_ = false;
  bool wants_end_ = false;
};

SimulatedFleet::SimulatedFleet(Options options) : options_(std::move(options)) {
  {
    const std::lock_guard lock(mutex_);
    for (int i = 0; i < options_.num_workers; ++i) AddLocked();
  }
  thread_ = std::thread([this] { Thread(); });
}

SimulatedFleet::~SimulatedFleet() {
  std::unique_lock lock(mutex_);
  is_ending_ = true;
  changed_.notify_all();
  for (const std::shared_ptr<Stream>& stream : streams_) stream->Cancel();
  changed_.wait(lock, [this] { return streams_.empty(); });
  lock.unlock();
  thread_.join();
}

int SimulatedFleet::Add() {
  const std::lock_guard lock(mutex_);
  AddLocked();
  return static_cast<int>(workers_.size()) - 1;
}

void SimulatedFleet::AddLocked() {
  auto worker = std::make_unique<Worker>();
  worker->order = static_cast<int64_t>(workers_.size());
  worker->host = fmt::format("n{}", worker->order / options_.workers_per_host);
  worker->id = fmt::format("{}-w{}", worker->host, worker->order);
  workers_.push_back(std::move(worker));
}

void SimulatedFleet::KillTrainer(int index, int signal) {
  const std::lock_guard lock(mutex_);
  ExitTrainer(*workers_[static_cast<size_t>(index)], signal);
}

void SimulatedFleet::Lose(int index) {
  const std::lock_guard lock(mutex_);
  Worker& worker = *workers_[static_cast<size_t>(index)];
  worker.is_lost = true;
  if (worker.trainer.has_value()) by_incarnation_.erase(worker.trainer->incarnation);
  worker.trainer.reset();
  if (worker.stream != nullptr) worker.stream->Cancel();
}

void SimulatedFleet::Disconnect(int index) {
  const std::lock_guard lock(mutex_);
  Worker& worker = *workers_[static_cast<size_t>(index)];
  if (worker.stream != nullptr) worker.stream->Cancel();
}

void SimulatedFleet::Leave(int index, bool preempt) {
  const std::lock_guard lock(mutex_);
  v1::WorkerMessage message;
  message.mutable_leave()->set_preempt(preempt);
  Send(*workers_[static_cast<size_t>(index)], std::move(message));
}

void SimulatedFleet::Report(int index, v1::Report report) {
  const std::lock_guard lock(mutex_);
  SendReport(*workers_[static_cast<size_t>(index)], std::move(report));
}

std::vector<SimulatedFleet::WorkerView> SimulatedFleet::Workers() const {
  const std::lock_guard lock(mutex_);
  std::vector<WorkerView> views;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    WorkerView view{.id = worker->id,
                    .is_connected = worker->is_welcome,
                    .term = worker->term,
                    .num_unacknowledged = worker->backlog.size(),
                    .exit_code = worker->exit_code,
                    .ended_with = worker->ended_with};
    if (worker->trainer.has_value()) {
      view.phase = worker->trainer->phase;
      view.generation = worker->trainer->assign.generation();
      view.rank = view.generation > 0 ? worker->trainer->assign.rank() : -1;
      view.iteration = worker->trainer->iteration;
    }
    views.push_back(std::move(view));
  }
  return views;
}

bool SimulatedFleet::WaitUntil(const std::function<bool(const std::vector<WorkerView>&)>& is_true,
                               std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (true) {
    // To look at thousands of workers takes a while: not to be what is measured. But waiting for
    // the lock or for a processor is in that time too, and what passes quickly is not to be missed.
    constexpr int kShare = 20;
    const auto begin = Clock::now();
    if (is_true(Workers())) return true;
    const auto end = Clock::now();
    if (end >= deadline) return false;
    std::this_thread::sleep_for(std::clamp<Clock::duration>(
        kShare * (end - begin), std::chrono::milliseconds(1), std::chrono::milliseconds(50)));
  }
}

int64_t SimulatedFleet::num_messages_sent() const {
  const std::lock_guard lock(mutex_);
  return num_sent_;
}

int64_t SimulatedFleet::num_messages_received() const {
  const std::lock_guard lock(mutex_);
  return num_received_;
}

void SimulatedFleet::Dial(Worker& worker) {
  worker.redial_at = Clock::now() + worker.redial_pause;
  const absl::StatusOr<CoordinatorInfo> info = ReadCoordinatorFile(options_.run_dir);
  const absl::StatusOr<std::string> token =
      options_.token.empty() ? ReadRunToken(options_.run_dir) : options_.token;
  if (!info.ok() || !token.ok()) return;
  // Each worker is another process elsewhere: a connection of its own for each.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::shared_ptr<v1::WorkerSession::Stub> stub = v1::WorkerSession::NewStub(
      grpc::CreateCustomChannel(info->address, grpc::InsecureChannelCredentials(), arguments));
  worker.stream = std::make_shared<Stream>(this, &worker, std::move(stub));
  streams_.push_back(worker.stream);
  worker.stream->Begin(*token);
  worker.heard_at = worker.heartbeat_at = Clock::now();
  SayHello(worker);
}

void SimulatedFleet::OnStreamDone(Stream* stream, const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  const auto entry = std::find_if(streams_.begin(), streams_.end(),
                                  [&](const auto& other) { return other.get() == stream; });
  // Not destroyed here: gRPC's threads end with the last channel, and wait for themselves if it is
  // one of them that destroys it.
  finished_.push_back(std::move(*entry));
  streams_.erase(entry);
  Worker& worker = stream->worker();
  if (worker.stream.get() == stream) {
    OnBroken(worker, status);
  }
  changed_.notify_all();
}

// A stream that was of use is followed by the next at once.
void SimulatedFleet::OnBroken(Worker& worker, const absl::Status& status) {
  worker.stream.reset();
  worker.redial_pause = std::exchange(worker.is_welcome, false)
                            ? kMinPause
                            : std::min(2 * worker.redial_pause, kMaxPause);
  worker.redial_at = Clock::now() + worker.redial_pause;
  worker.ended_with = status;
}

void SimulatedFleet::Send(Worker& worker, v1::WorkerMessage message) {
  if (worker.stream != nullptr) worker.stream->Send(std::move(message));
}

void SimulatedFleet::SendTrainer(Worker& worker, v1::TrainerMessage message) {
  v1::WorkerMessage outer;
  outer.mutable_from_trainer()->set_incarnation(worker.trainer->incarnation);
  *outer.mutable_from_trainer()->mutable_message() = std::move(message);
  Send(worker, std::move(outer));
}

void SimulatedFleet::SendReport(Worker& worker, v1::Report report) {
  v1::WorkerMessage outer;
  v1::FromTrainer& from = *outer.mutable_from_trainer();
  from.set_incarnation(worker.trainer.has_value() ? worker.trainer->incarnation : 0);
  from.set_sequence(++worker.last_sequence);
  *from.mutable_message()->mutable_report() = std::move(report);
  worker.backlog.push_back(outer);
  if (worker.is_welcome) Send(worker, std::move(outer));
}

void SimulatedFleet::SayHello(Worker& worker) {
  v1::WorkerMessage message;
  v1::Hello& hello = *message.mutable_hello();
  hello.set_run_id(worker.run_id);
  hello.set_worker_id(worker.id);
  hello.set_host(worker.host);
  hello.set_supervisor_pid(1000 + worker.order);
  hello.set_order(worker.order);
  hello.set_term(worker.term);
  *hello.mutable_run_request() = options_.request;
  if (worker.trainer.has_value()) {
    const Trainer& trainer = *worker.trainer;
    hello.set_generation(trainer.prepared);
    hello.set_trainer_incarnation(trainer.incarnation);
    hello.set_trainer_pid(2000 + worker.order);
    hello.set_phase(trainer.phase);
    hello.set_iteration(trainer.iteration);
    if (trainer.phase == v1::TRAINER_PHASE_PARKED) *hello.mutable_parked() = trainer.parked;
    if (trainer.phase >= v1::TRAINER_PHASE_SYNCED) *hello.mutable_synced() = trainer.synced;
    if (trainer.phase == v1::TRAINER_PHASE_HELD) *hello.mutable_held() = trainer.held;
    if (trainer.shard.has_value()) *hello.mutable_shard_written() = *trainer.shard;
  }
  Send(worker, std::move(message));
}

void SimulatedFleet::Receive(Worker& worker, const v1::CoordinatorMessage& message) {
  worker.heard_at = Clock::now();
  switch (message.kind_case()) {
    case v1::CoordinatorMessage::kWelcome:
      worker.is_welcome = true;
      worker.run_id = message.welcome().run_id();
      worker.term = message.welcome().term();
      worker.heartbeat_interval = Seconds(message.welcome().heartbeat_seconds());
      for (const v1::WorkerMessage& report : worker.backlog) Send(worker, report);
      return;
    case v1::CoordinatorMessage::kStartTrainer:
      return StartTrainer(worker);
    case v1::CoordinatorMessage::kToTrainer:
      if (message.to_trainer().message().has_end()) {
        worker.exit_code = message.to_trainer().message().end().exit_code();
        if (worker.trainer.has_value()) by_incarnation_.erase(worker.trainer->incarnation);
        worker.trainer.reset();
        return worker.stream->EndWrites();
      }
      if (worker.trainer.has_value() &&
          worker.trainer->incarnation == message.to_trainer().incarnation()) {
        ReceiveControl(worker, message.to_trainer().message());
      }
      return;
    case v1::CoordinatorMessage::kKillTrainer:
      if (worker.trainer.has_value() &&
          worker.trainer->incarnation == message.kill_trainer().incarnation()) {
        ExitTrainer(worker, 9);
      }
      return;
    case v1::CoordinatorMessage::kAcknowledge:
      worker.heartbeat_interval = Seconds(message.acknowledge().heartbeat_seconds());
      while (!worker.backlog.empty() &&
             worker.backlog.front().from_trainer().sequence() <= message.acknowledge().sequence()) {
        worker.backlog.pop_front();
      }
      return;
    case v1::CoordinatorMessage::KIND_NOT_SET:
      return;
  }
}

void SimulatedFleet::ReceiveControl(Worker& worker, const v1::ControlMessage& message) {
  Trainer& trainer = *worker.trainer;
  switch (message.kind_case()) {
    case v1::ControlMessage::kPrepare:
      return Park(worker, message.prepare().generation());
    case v1::ControlMessage::kAssign:
      return Sync(worker, message.assign());
    case v1::ControlMessage::kRun:
      if (message.run().generation() == trainer.assign.generation()) {
        trainer.phase = v1::TRAINER_PHASE_RUNNING;
      }
      return;
    case v1::ControlMessage::kResume:
      if (trainer.phase == v1::TRAINER_PHASE_HELD) trainer.phase = v1::TRAINER_PHASE_RUNNING;
      return;
    case v1::ControlMessage::kRaiseFlags: {
      const v1::RaiseFlags& raise = message.raise_flags();
      if (trainer.phase == v1::TRAINER_PHASE_HELD) {
        if (Has(raise.flags(), v1::FLAG_CHECKPOINT)) WriteShard(worker);
        return;
      }
      trainer.flags |= raise.flags();
      if (raise.checkpoint_from() <= trainer.checkpoint_step) {
        trainer.flags &= ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
      }
      return;
    }
    case v1::ControlMessage::kEnd:
    case v1::ControlMessage::KIND_NOT_SET:
      return;
  }
}

void SimulatedFleet::StartTrainer(Worker& worker) {
  if (worker.trainer.has_value()) return;
  last_incarnation_ = std::max<int64_t>(last_incarnation_ + 1,
                                        std::chrono::duration_cast<std::chrono::microseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count());
  worker.trainer.emplace();
  worker.trainer->incarnation = last_incarnation_;
  by_incarnation_[last_incarnation_] = &worker;
  v1::WorkerMessage message;
  message.mutable_trainer_started()->set_incarnation(last_incarnation_);
  message.mutable_trainer_started()->set_pid(2000 + worker.order);
  Send(worker, std::move(message));
  Park(worker, 0);
}

void SimulatedFleet::ExitTrainer(Worker& worker, int signal) {
  if (!worker.trainer.has_value()) return;
  v1::WorkerMessage message;
  message.mutable_trainer_exited()->set_incarnation(worker.trainer->incarnation);
  message.mutable_trainer_exited()->set_signal(signal);
  by_incarnation_.erase(worker.trainer->incarnation);
  worker.trainer.reset();
  Send(worker, std::move(message));
}

void SimulatedFleet::Park(Worker& worker, int64_t generation) {
  Trainer& trainer = *worker.trainer;
  trainer.phase = v1::TRAINER_PHASE_PARKED;
  trainer.prepared = generation;
  trainer.flags = 0;
  trainer.checkpoint_step = -1;
  trainer.parked.set_generation(generation);
  trainer.parked.set_has_state(trainer.has_state);
  trainer.parked.set_iteration(trainer.iteration);
  trainer.parked.set_mesh_address(
      fmt::format("10.0.{}.{}:40000", worker.order / 250, worker.order % 250));
  newest_generation_ = std::max(newest_generation_, generation);
  v1::TrainerMessage message;
  *message.mutable_parked() = trainer.parked;
  SendTrainer(worker, std::move(message));
}

// The same for all of a generation. Each trainer reads the list on its own machine: here once.
const v1::MemberList& SimulatedFleet::MembersOf(const v1::Assign& assign) {
  if (std::exchange(members_generation_, assign.generation()) != assign.generation() &&
      !members_.ParseFromString(assign.members())) {
    spdlog::error("an assignment whose members cannot be read");
  }
  return members_;
}

void SimulatedFleet::Sync(Worker& worker, const v1::Assign& assign) {
  Trainer& trainer = *worker.trainer;
  if (assign.generation() != trainer.prepared) return;
  const v1::MemberList& members = MembersOf(assign);
  trainer.num_members = members.members_size();
  trainer.assign.set_term(assign.term());
  trainer.assign.set_generation(assign.generation());
  trainer.assign.set_rank(assign.rank());
  if (assign.source_loads()) {
    const auto catalogue = ScanCheckpoints(options_.run_dir / "checkpoints");
    trainer.iteration =
        catalogue.ok() && !catalogue->committed.empty() ? catalogue->committed.front() : 0;
  } else if (const auto source =
                 by_incarnation_.find(members.members(assign.source_rank()).incarnation());
             source != by_incarnation_.end()) {
    trainer.iteration = source->second->trainer->iteration;
  }
  trainer.has_state = true;
  trainer.phase = v1::TRAINER_PHASE_SYNCED;
  trainer.synced.set_generation(assign.generation());
  trainer.synced.set_iteration(trainer.iteration);
  trainer.synced.set_digest(fmt::format("{:016}", trainer.iteration));
  v1::TrainerMessage message;
  *message.mutable_synced() = trainer.synced;
  SendTrainer(worker, std::move(message));
}

void SimulatedFleet::WriteShard(Worker& worker) {
  Trainer& trainer = *worker.trainer;
  trainer.checkpoint_step = trainer.iteration;
  const v1::Assign& assign = trainer.assign;
  const std::vector<float> values(kStateElements, static_cast<float>(trainer.iteration));
  const NamedTensor tensor{.name = "state",
                           .tensor = {.dtype = DType::kF32,
                                      .shape = {static_cast<int64_t>(kStateElements)},
                                      .bytes = std::as_bytes(std::span(values))}};
  const std::span<const NamedTensor> state(&tensor, 1);
  const PartialId id{.step = trainer.iteration,
                     .term = static_cast<uint64_t>(assign.term()),
                     .generation = static_cast<uint64_t>(assign.generation())};
  v1::ShardWritten written;
  written.set_step(id.step);
  written.set_term(assign.term());
  written.set_generation(assign.generation());
  written.set_shard_index(assign.rank());
  written.set_num_shards(trainer.num_members);
  written.set_reason("asked for");
  const auto write = [&]() -> absl::StatusOr<ShardReport> {
    const auto plan = PlanShards(DescribeState(state), trainer.num_members);
    if (!plan.ok()) return plan.status();
    const Shard& shard = plan->shards[static_cast<size_t>(assign.rank())];
    const std::filesystem::path folder = options_.run_dir / "checkpoints" / PartialName(id);
    std::filesystem::create_directories(folder);
    return albef::WriteShard(folder, shard, ShardTensors(*plan, shard, state));
  };
  const absl::StatusOr<ShardReport> report = write();
  if (report.ok()) {
    written.set_file_name(report->file_name);
    written.set_header_bytes(report->header_bytes);
    written.set_num_bytes(report->num_bytes);
    written.set_hash(HashBytes16(report->hash));
    for (const Hash128& hash : report->block_hashes) {
      written.mutable_block_hashes()->append(HashBytes16(hash));
    }
  } else {
    written.set_error(std::string(report.status().message()));
  }
  if (assign.rank() == 0) {
    v1::CheckpointDescription& description = *written.mutable_description();
    auto& described = *description.add_tensors();
    described.set_name("state");
    described.set_dtype("F32");
    described.add_shape(kStateElements);
    description.set_iteration(id.step);
    description.set_updates(id.step);
    description.set_ema_updates(id.step);
    description.set_config_digest("simulated");
    description.set_virtual_ranks(trainer.num_members);
  }
  trainer.shard = written;
  v1::TrainerMessage message;
  *message.mutable_shard_written() = std::move(written);
  SendTrainer(worker, std::move(message));
}

void SimulatedFleet::Hold(Worker& worker, uint32_t flags) {
  Trainer& trainer = *worker.trainer;
  trainer.phase = v1::TRAINER_PHASE_HELD;
  trainer.flags = 0;
  trainer.held.set_generation(trainer.assign.generation());
  trainer.held.set_iteration(trainer.iteration);
  trainer.held.set_flags(flags);
  trainer.held.set_done(trainer.iteration >= options_.target_step);
  v1::TrainerMessage message;
  *message.mutable_held() = trainer.held;
  SendTrainer(worker, std::move(message));
}

void SimulatedFleet::Iterate() {
  std::vector<Worker*> members;
  size_t num_wanted = 0;
  uint32_t flags = 0;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    if (!worker->trainer.has_value() ||
        worker->trainer->assign.generation() != newest_generation_ ||
        worker->trainer->phase != v1::TRAINER_PHASE_RUNNING) {
      continue;
    }
    members.push_back(worker.get());
    num_wanted = static_cast<size_t>(worker->trainer->num_members);
    flags |= worker->trainer->flags;
  }
  if (members.empty() || members.size() != num_wanted) return;
  const bool is_done = members.front()->trainer->iteration + 1 >= options_.target_step;
  for (Worker* worker : members) {
    Trainer& trainer = *worker->trainer;
    ++trainer.iteration;
    if (trainer.assign.rank() == 0) {
      v1::Report report;
      v1::StepReport& step = *report.mutable_step();
      step.set_step(trainer.iteration);
      step.set_loss_mlm(1.0);
      step.set_workers(trainer.num_members);
      step.set_generation(trainer.assign.generation());
      step.set_seconds_per_step(std::chrono::duration<double>(options_.step_interval).count());
      SendReport(*worker, std::move(report));
    }
    if (Has(flags, v1::FLAG_CHECKPOINT)) WriteShard(*worker);
    trainer.flags &= ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
    const uint32_t holding = flags & ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
    if (holding != 0 || is_done) Hold(*worker, holding);
  }
}

void SimulatedFleet::Tick(Clock::time_point now) {
  int num_dialled = 0;
  for (const std::unique_ptr<Worker>& entry : workers_) {
    Worker& worker = *entry;
    if (worker.is_lost || worker.exit_code.has_value()) continue;
    if (worker.stream == nullptr) {
      constexpr int kDialsAtOnce = 32;  // others are to be served meanwhile
      if (now >= worker.redial_at && num_dialled++ < kDialsAtOnce) Dial(worker);
      continue;
    }
    if (now - worker.heard_at > options_.silence_limit) {
      worker.stream->Cancel();
      continue;
    }
    if (now - worker.heartbeat_at < worker.heartbeat_interval) continue;
    worker.heartbeat_at = now;
    v1::WorkerMessage message;
    v1::Heartbeat& heartbeat = *message.mutable_heartbeat();
    if (worker.trainer.has_value()) {
      heartbeat.set_trainer_incarnation(worker.trainer->incarnation);
      v1::Activity& activity = *heartbeat.mutable_activity();
      activity.set_section(worker.trainer->phase == v1::TRAINER_PHASE_RUNNING
                               ? v1::Activity::SECTION_COMPUTE
                               : v1::Activity::SECTION_IDLE);
      activity.set_generation(worker.trainer->assign.generation());
      activity.set_iteration(worker.trainer->iteration);
      activity.set_section_limit_seconds(600);
    }
    Send(worker, std::move(message));
  }
  if (now >= step_at_) {
    step_at_ = now + options_.step_interval;
    Iterate();
  }
}

void SimulatedFleet::Thread() {
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    Tick(Clock::now());
    changed_.notify_all();
    std::vector<std::shared_ptr<Stream>> finished = std::exchange(finished_, {});
    lock.unlock();
    finished.clear();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    lock.lock();
  }
}

}  // namespace albef
