#include "worker/trainer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "checkpoint/digest.h"
#include "comm/cuda_streams.h"
#include "comm/grpc_communicator.h"
#include "comm/mesh_server.h"
#include "comm/nccl_communicator.h"
#include "comm/slices.h"
#include "comm/unreachable_peers.h"
#include "common/clock.h"
#include "common/fault_point.h"
#include "common/format_absl.h"
#include "common/status_macros.h"
#include "coordinator/run_setup.h"
#include "dataloader/utf8.h"
#include "model/mixed_linear.h"
#include "worker/activity.h"
#include "worker/compute.h"
#include "worker/initial_state.h"
#include "worker/state_transfer.h"
#include "worker/supervisor_link.h"
#include "worker/torch_errors.h"
#include "worker/training_loop.h"

namespace albef {
namespace {

// A silent connection is given up so much later than a stuck member is killed (design §5).
constexpr double kSilenceBeyondHangS = 5;

// Where the others dial this trainer. A test may want them to come by a proxy on this host.
std::string AddressToDial(const MeshServer& mesh) {
  const std::string& address = mesh.address();
  const std::optional<int> port = FaultValue("mesh_port");
  if (!port.has_value()) return address;
  return fmt::format("{}:{}", address.substr(0, address.rfind(':')), *port);
}

// The decision, as it travels.
v1::GateDecision ToProto(const GateDecision& decision) {
  v1::GateDecision message;
  message.set_iteration(decision.iteration);
  message.set_committed(decision.committed);
  message.set_flags(decision.flags);
  message.set_loss_mlm(decision.loss_mlm);
  message.set_loss_itc(decision.loss_itc);
  message.set_loss_itm(decision.loss_itm);
  message.set_temperature(decision.temperature);
  return message;
}

GateDecision FromProto(const v1::GateDecision& message) {
  return {.iteration = message.iteration(),
          .committed = message.committed(),
          .flags = message.flags(),
          .loss_mlm = message.loss_mlm(),
          .loss_itc = message.loss_itc(),
          .loss_itm = message.loss_itm(),
          .temperature = message.temperature()};
}

static_assert(gate_flag::kCheckpoint == v1::FLAG_CHECKPOINT &&
              gate_flag::kPause == v1::FLAG_PAUSE && gate_flag::kResize == v1::FLAG_RESIZE &&
              gate_flag::kPreempt == v1::FLAG_PREEMPT && gate_flag::kStop == v1::FLAG_STOP);

class Trainer {
 public:
  Trainer(RunSetup setup, torch::Device device, MeshServer* mesh, ActivityTracker* activity,
          SupervisorLink* link)
      : setup_(std::move(setup)),
        device_(device),
        mesh_(mesh),
        mesh_address_(AddressToDial(*mesh)),
        activity_(activity),
        link_(link) {}

  // One generation after the other, until the end. An error is this trainer's own.
  absl::Status Run() {
    Park(0);
    int64_t parked = 0;
    while (true) {
      activity_->Enter(Section::kIdle);
      const Orders orders = inbox().Await([&](const Orders& now) {
        return now.is_ended || now.prepared > parked || now.assign.has_value();
      });
      if (orders.is_ended) return absl::OkStatus();
      if (orders.prepared > parked) {
        parked = orders.prepared;
        FaultPoint("forming", parked);
        Park(parked);
        continue;
      }
      RETURN_IF_ERROR(TakePart(*orders.assign));
      // Out of the generation; only a newer one matters now.
      activity_->Enter(Section::kIdle);
      inbox().Await([&](const Orders& now) { return now.is_ended || now.prepared > parked; });
    }
  }

 private:
  Inbox& inbox() { return link_->inbox(); }

  bool IsOver(const Orders& orders) const {
    return orders.is_ended || orders.prepared > generation_;
  }
  bool IsOver() { return IsOver(inbox().Now()); }

  int64_t iteration() const { return state_->counters().iteration; }

  void Park(int64_t generation) {
    v1::TrainerMessage message;
    v1::Parked& parked = *message.mutable_parked();
    parked.set_generation(generation);
    parked.set_mesh_address(mesh_address_);
    parked.set_has_state(has_state_);
    if (has_state_) {
      parked.set_iteration(iteration());
      parked.set_holds_iteration(loop_->HoldsIteration());
      if (loop_->last_decision().has_value()) {
        *parked.mutable_last_decision() = ToProto(*loop_->last_decision());
      }
    }
    link_->Send(message);
  }

  void CommunicationFailed(const absl::Status& status) {
    if (IsOver()) return;  // it was told to leave
    spdlog::warn("communication failed generation={} reason=\"{}\"", generation_, status.message());
    v1::TrainerMessage message;
    v1::CommunicationFailed& failed = *message.mutable_communication_failed();
    failed.set_generation(generation_);
    failed.set_peer_rank(-1);
    failed.set_message(std::string(status.message()));
    for (const int rank : UnreachableRanks(status)) failed.add_unreachable_ranks(rank);
    link_->Send(message);
  }

  // All members see it alike, and none goes on.
  void StatesDiffer(const StateDifference& difference) {
    spdlog::warn("the members' states differ generation={} step={} where=\"{}\" minority=[{}]",
                 generation_, iteration(), difference.where,
                 fmt::join(difference.minority_ranks, ","));
    v1::TrainerMessage message;
    v1::CommunicationFailed& failed = *message.mutable_communication_failed();
    failed.set_generation(generation_);
    failed.set_peer_rank(-1);
    failed.set_message("the members' states differ");
    v1::StateDifference& differs = *failed.mutable_state_difference();
    differs.set_iteration(iteration());
    differs.set_where(difference.where);
    for (const int rank : difference.minority_ranks) differs.add_minority_ranks(rank);
    link_->Send(message);
  }

  absl::Status TakePart(const v1::Assign& assign) {
    generation_ = assign.generation();
    v1::MemberList members;
    if (!members.ParseFromString(assign.members())) {
      return absl::InternalError("an assignment whose members cannot be read");
    }
    ASSIGN_OR_RETURN(const Place place, MakePlace(assign, members.members_size()));
    activity_->Enter(Section::kSync);
    const auto start = std::chrono::steady_clock::now();
    // What the trainers must still do together if this one fails is up to the next generation.
    std::unique_ptr<Communicator> communicator;
    if (place.slices.size() > 1) {
      if (device_.is_cuda()) RETURN_IF_ERROR(PrepareNccl());
      absl::StatusOr<std::unique_ptr<Communicator>> connected =
          Connect(MembershipOf(assign, members));
      if (!connected.ok()) {
        CommunicationFailed(connected.status());
        return absl::OkStatus();
      }
      communicator = *std::move(connected);
    }
    const double connected_s = SecondsSince(start);
    FaultPoint("syncing", assign.generation());
    RETURN_IF_ERROR(Synchronize(assign, communicator.get()));
    if (communicator != nullptr && !communicator->status().ok()) {
      CommunicationFailed(communicator->status());
      return absl::OkStatus();
    }
    loop_->ForgetGeneration();
    communicator_ = std::move(communicator);
    // Some may have begun the next iteration already, so all do. After the last there is no next
    // one: the state is that of the final checkpoint, to the bit.
    if (iteration() < setup_.target_step) state_->Prologue();
    const double state_s = SecondsSince(start);
    ASSIGN_OR_RETURN(const Hash128 digest,
                     DigestOf(*state_, static_cast<int>(*setup_.config.threads_per_worker)));
    v1::TrainerMessage message;
    v1::Synced& synced = *message.mutable_synced();
    synced.set_generation(generation_);
    synced.set_iteration(iteration());
    synced.set_digest(HashToBytes(digest));
    link_->Send(message);
    spdlog::info(
        "state ready generation={} step={} connect_s={:.2f} state_s={:.2f} digest_s={:.2f}",
        generation_, iteration(), connected_s, state_s - connected_s,
        SecondsSince(start) - state_s);

    activity_->Enter(Section::kIdle);
    const Orders orders =
        inbox().Await([this](const Orders& now) { return IsOver(now) || now.is_run; });
    if (IsOver(orders)) return absl::OkStatus();
    has_state_ = true;
    return Iterate(place, assign);
  }

  absl::StatusOr<Place> MakePlace(const v1::Assign& assign, int num_members) const {
    Place place{.communicator = nullptr,
                .term = assign.term(),
                .generation = assign.generation(),
                .rank = assign.rank()};
    ASSIGN_OR_RETURN(place.slices, DivideRanks(setup_.plan.virtual_ranks(), num_members));
    return place;
  }

  static MeshMembership MembershipOf(const v1::Assign& assign, const v1::MemberList& members) {
    MeshMembership membership{.epoch = {.term = assign.term(), .generation = assign.generation()},
                              .rank = assign.rank()};
    for (const v1::Member& member : members.members()) {
      membership.members.push_back(
          {.address = member.mesh_address(), .incarnation = member.incarnation()});
    }
    return membership;
  }

  // Once a generation has other members: a lone worker needs no NCCL.
  absl::Status PrepareNccl() {
    if (nccl_.has_value()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const NcclApi nccl, LoadNccl());
    ASSIGN_OR_RETURN(std::shared_ptr<StreamDevice> streams, CudaStreams(device_));
    nccl_ = NcclCommunicator::Options{.nccl = nccl, .device = std::move(streams)};
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const MeshMembership& membership) {
    if (!nccl_.has_value()) return GrpcCommunicator::Connect(*mesh_, membership);
    return NcclCommunicator::Connect(*mesh_, membership, *nccl_);
  }

  // Brings this member to the generation's state. Failures of the communicator are not reported
  // here; they show in its status.
  absl::Status Synchronize(const v1::Assign& assign, Communicator* communicator) {
    const auto& receivers = assign.receiver_ranks();
    const bool receives =
        std::find(receivers.begin(), receivers.end(), assign.rank()) != receivers.end();
    if (receives) {
      has_state_ = false;
      if (state_ == nullptr) Adopt(MakeBlankState(setup_, device_));
    } else if (assign.source_loads()) {
      has_state_ = false;
      loop_.reset();
      state_.reset();
      ASSIGN_OR_RETURN(setup_.action, setup_.NextAction());
      ASSIGN_OR_RETURN(std::unique_ptr<TrainState> state,
                       MakeInitialState(setup_, *link_, device_));
      Adopt(std::move(state));
    } else if (assign.has_decision() && assign.decision().iteration() == iteration()) {
      loop_->Apply(FromProto(assign.decision()));
    }
    if (receivers.empty()) return absl::OkStatus();
    const absl::Status status = TransferState(
        *state_,
        {.source = assign.source_rank(), .receivers = {receivers.begin(), receivers.end()}},
        *communicator);
    if (receives && status.ok()) loop_ = MakeLoop();
    return absl::OkStatus();
  }

  void Adopt(std::unique_ptr<TrainState> state) {
    loop_.reset();
    state_ = std::move(state);
    loop_ = MakeLoop();
  }

  std::unique_ptr<TrainingLoop> MakeLoop() {
    return std::make_unique<TrainingLoop>(
        &setup_, state_.get(), link_,
        TrainingLoop::Options{
            .device = device_,
            .raised_flags = [this] { return inbox().Now().flags; },
            .enter = [this](Section section) { activity_->Enter(section); },
            .batch_begun = [this](const Batch& batch) { NoteBatch(batch); },
            .decided =
                [this](const GateDecision& decision) {
                  inbox().Lower(decision.flags);
                  activity_->EndIteration(iteration());
                },
            .checkpoint_taken = [this](int64_t step) { inbox().CheckpointTaken(step); },
            .should_leave = [this] { return IsOver(); },
            .shard_written =
                [this](const v1::ShardWritten& written) {
                  v1::TrainerMessage message;
                  *message.mutable_shard_written() = written;
                  link_->Send(message);
                }});
  }

  // Should this batch be the trainer's last, its supervisor can name it.
  void NoteBatch(const Batch& batch) {
    constexpr size_t kNamedSamples = 4;
    v1::TrainerMessage message;
    v1::BatchBegun& begun = *message.mutable_batch_begun();
    begun.set_iteration(batch.iteration);
    begun.set_virtual_rank(batch.virtual_rank);
    begun.set_first_position(
        setup_.plan.At(batch.iteration, batch.virtual_rank, 0).sample_position);
    begun.set_num_samples(batch.batch_size);
    for (const int64_t index : batch.sample_index_B) {
      if (static_cast<size_t>(begun.samples_size()) == kNamedSamples) break;
      setup_.dataset.train->Fetch(index, named_sample_);
      const std::string name = named_sample_.ImageName();
      begun.add_samples(IsValidUtf8(name) ? absl::Utf8SafeCEscape(name) : absl::CEscape(name));
    }
    link_->Send(message);
  }

  absl::Status Iterate(Place place, const v1::Assign& assign) {
    place.communicator = communicator_.get();
    if (place.rank == 0) {
      spdlog::info(
          "training run_dir={} step={} target_step={} epochs={} steps_per_epoch={} "
          "virtual_ranks={} batch_size={} pairs={} threads={} device={} workers={} generation={}",
          setup_.run_dir.string(), iteration(), setup_.target_step, setup_.config.schedular.epochs,
          setup_.plan.steps_per_epoch(), setup_.plan.virtual_ranks(), setup_.config.batch_size,
          setup_.plan.num_samples(), *setup_.config.threads_per_worker, device_.str(),
          place.slices.size(), generation_);
    }
    activity_->StartGeneration(generation_, iteration());
    while (true) {
      const absl::StatusOr<TrainingLoop::Boundary> boundary =
          loop_->Run(place, assign.last_evaluation_step());
      if (!boundary.ok()) {
        if (communicator_ == nullptr || communicator_->status().ok()) return boundary.status();
        CommunicationFailed(boundary.status());
        return absl::OkStatus();
      }
      if (boundary->difference.has_value()) {
        StatesDiffer(*boundary->difference);
        return absl::OkStatus();
      }
      if (boundary->left || IsOver()) return absl::OkStatus();
      if (!Hold(*boundary)) return absl::OkStatus();
    }
  }

  // False when the generation is over.
  bool Hold(const TrainingLoop::Boundary& boundary) {
    inbox().BeginHold();
    activity_->Enter(Section::kIdle);
    v1::TrainerMessage message;
    v1::Held& held = *message.mutable_held();
    held.set_generation(generation_);
    held.set_iteration(iteration());
    held.set_flags(boundary.flags);
    held.set_done(boundary.done);
    link_->Send(message);
    while (true) {
      const Orders orders = inbox().Await([this](const Orders& now) {
        return IsOver(now) || now.is_resumed || (now.flags & gate_flag::kCheckpoint) != 0;
      });
      if (IsOver(orders)) return false;
      if (orders.flags & gate_flag::kCheckpoint) {
        inbox().Lower(gate_flag::kCheckpoint);
        loop_->CheckpointHeld();
      } else {
        return true;
      }
    }
  }

  RunSetup setup_;
  const torch::Device device_;
  MeshServer* const mesh_;
  const std::string mesh_address_;
  ActivityTracker* const activity_;
  SupervisorLink* const link_;

  std::optional<NcclCommunicator::Options> nccl_;  // on GPUs
  std::unique_ptr<TrainState> state_;
  std::unique_ptr<Communicator> communicator_;  // of the last generation that was synchronised
  std::unique_ptr<TrainingLoop> loop_;          // uses both
  bool has_state_ = false;                      // that others could take over
  int64_t generation_ = 0;                      // newest that this trainer took part in
  Sample named_sample_;                         // its memory is reused
};

absl::Status SetUpAndRun(const TrainerOptions& options, MeshServer* mesh, ActivityTracker* activity,
                         SupervisorLink* link) {
  ASSIGN_OR_RETURN(RunSetup setup, RunSetup::Join(options.run_dir, options.action,
                                                  {.mode = ResumeRequest::Mode::kPath,
                                                   .path = options.import_path}));
  const RunConfig& config = setup.config;
  ASSIGN_OR_RETURN(const torch::Device device,
                   ConfigureCompute({.device = options.device,
                                     .local_rank = options.local_rank,
                                     .threads = static_cast<int>(*config.threads_per_worker),
                                     .deterministic = *config.deterministic,
                                     .tf32 = config.precision == RunConfig::Precision::kTf32}));
  if (config.precision == RunConfig::Precision::kBf16 && device.is_cpu() && !CpuMultipliesBf16()) {
    spdlog::warn(
        "precision: bf16 on a CPU without instructions for it: its products are made in fp32, so "
        "steps are not faster than with fp32");
  }
  Trainer trainer(std::move(setup), device, mesh, activity, link);
  return trainer.Run();
}

}  // namespace

ExitCode RunTrainer(TrainerOptions options) {
  const absl::StatusOr<RunConfig> config =
      LoadRunConfig(options.run_dir / "config.yaml", {.overrides = {}, .check_files = false});
  const RunConfig::Elastic elastic = config.ok() ? config->elastic : RunConfig::Elastic();
  ActivityTracker activity(
      {.hang_limit_s = elastic.hang_limit_s, .startup_limit_s = elastic.startup_limit_s});
  absl::StatusOr<std::unique_ptr<MeshServer>> mesh =
      MeshServer::Start({.run_id = options.run_id,
                         .token = options.token,
                         .incarnation = options.incarnation,
                         .host = options.mesh_host,
                         .silence_limit = std::chrono::milliseconds(static_cast<int64_t>(
                             (elastic.hang_limit_s + kSilenceBeyondHangS) * 1000))});
  SupervisorLink link(std::move(options.control), &activity, [&](const v1::Assign& assigned) {
    if (!mesh.ok()) return;
    (*mesh)->Leave({.term = assigned.term(), .generation = assigned.generation()},
                   absl::CancelledError("this trainer was told to leave the generation"));
  });
  absl::Status status = config.status();
  if (status.ok()) status = mesh.status();
  if (status.ok()) {
    status = CatchExceptions([&] { return SetUpAndRun(options, mesh->get(), &activity, &link); });
  }
  if (status.ok()) {
    FaultPoint("shutdown");
    return ExitCode::kDone;
  }
  const ExitCode code = ExitCodeFor(status);
  spdlog::error("{}", status.message());
  v1::TrainerMessage message;
  message.mutable_failed()->set_exit_code(static_cast<int>(code));
  message.mutable_failed()->set_message(std::string(status.message()));
  link.Send(message);
  return code;
}

}  // namespace albef
