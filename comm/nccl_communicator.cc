#include "comm/nccl_communicator.h"

#include <spdlog/spdlog.h>

#include <array>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// What rank 0 tells the others. The same processor everywhere, so as it lies in memory.
struct Invitation {
  int nccl_version = 0;
  std::array<NcclUniqueId, kNumLanes> ids = {};
};

absl::Status MakeInvitation(const NcclApi& nccl, Invitation& invitation) {
  RETURN_IF_ERROR(NcclStatus(nccl, nccl.get_version(&invitation.nccl_version), nullptr));
  for (NcclUniqueId& id : invitation.ids) {
    RETURN_IF_ERROR(NcclStatus(nccl, nccl.get_unique_id(&id), nullptr));
  }
  return absl::OkStatus();
}

// Rank 0's invitation, on all ranks.
absl::StatusOr<Invitation> ShareInvitation(const NcclApi& nccl, MeshGroup& group,
                                           Clock::time_point deadline) {
  const auto invitation = std::make_shared<Invitation>();
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(invitation.get(), 1));
  std::vector<MeshGroup::Send> sends;
  std::vector<MeshGroup::Receive> receives;
  if (group.rank() == 0) {
    RETURN_IF_ERROR(MakeInvitation(nccl, *invitation));
    for (int peer = 1; peer < group.size(); ++peer) sends.push_back({peer, bytes, invitation});
  } else {
    receives.push_back({0, bytes, invitation});
  }
  const Work work =
      group.Exchange(Lane::kMain, "NCCL's ids", std::move(sends), std::move(receives));
  RETURN_IF_ERROR(work.Wait(deadline));
  int version = 0;
  RETURN_IF_ERROR(NcclStatus(nccl, nccl.get_version(&version), nullptr));
  if (version != invitation->nccl_version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "NCCL: rank 0 has version ", NcclVersionText(invitation->nccl_version), ", rank ",
        group.rank(), " has ", NcclVersionText(version), "; all workers need the same"));
  }
  return *invitation;
}

std::optional<NcclType> TypeOf(torch::ScalarType type) {
  switch (type) {
    case torch::kFloat32:
      return NcclType::kFloat32;
    case torch::kFloat64:
      return NcclType::kFloat64;
    case torch::kFloat16:
      return NcclType::kFloat16;
    case torch::kBFloat16:
      return NcclType::kBfloat16;
    case torch::kInt32:
      return NcclType::kInt32;
    case torch::kInt64:
      return NcclType::kInt64;
    default:
      return std::nullopt;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator::Connect(
    MeshServer& server, const MeshMembership& membership, Options options) {
  ASSIGN_OR_RETURN(std::unique_ptr<MeshGroup> joined, server.Join(membership));
  const std::shared_ptr<MeshGroup> group = std::move(joined);
  const Clock::time_point deadline = Clock::now() + options.connect_limit;
  const absl::StatusOr<Invitation> invitation = ShareInvitation(options.nccl, *group, deadline);
  if (!invitation.ok()) {
    group->Abort(invitation.status());
    return invitation.status();
  }
  std::unique_ptr<NcclCommunicator> communicator(new NcclCommunicator(
      group, std::move(options), {invitation->ids.begin(), invitation->ids.end()}));
  for (const auto& each : communicator->lanes_) {
    if (const absl::Status status = each->AwaitConnected(deadline); !status.ok()) {
      communicator->Abort(status);
      return communicator->status();
    }
  }
  return communicator;
}

NcclCommunicator::NcclCommunicator(std::shared_ptr<MeshGroup> group, Options options,
                                   const std::vector<NcclUniqueId>& ids)
    : group_(std::move(group)), options_(std::move(options)) {
  for (const NcclUniqueId& id : ids) {
    lanes_.push_back(std::make_shared<NcclLane>(NcclLane::Options{
        .nccl = options_.nccl, .device = options_.device, .group = group_, .id = id}));
    threads_.emplace_back([each = lanes_.back()] { each->Run(); });
  }
}

NcclCommunicator::~NcclCommunicator() {
  Abort(absl::CancelledError("this rank has left"));
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (lanes_[i]->AwaitEnd(Clock::now())) {
      threads_[i].join();
    } else {
      threads_[i].detach();
    }
  }
}

Work NcclCommunicator::Exchange(Lane which, std::string name, std::vector<Transfer> sends,
                                std::vector<Transfer> receives) {
  for (auto* transfers : {&sends, &receives}) {
    if (absl::Status status = Check(*transfers); !status.ok()) {
      return Work::Failed(std::move(name), status);
    }
    std::erase_if(*transfers, [](const Transfer& each) { return each.tensor.nbytes() == 0; });
  }
  if (sends.empty() && receives.empty()) {
    if (absl::Status failure = status(); !failure.ok()) {
      return Work::Failed(std::move(name), failure);
    }
    return Work(std::make_shared<Operation>(std::move(name), std::span<const int>()));
  }
  return lane(which).Exchange(std::move(name), sends, receives);
}

Work NcclCommunicator::Sum(Lane which, std::string name, const torch::Tensor& values) {
  const std::optional<NcclType> type = TypeOf(values.scalar_type());
  if (!type || !values.is_contiguous() || values.device() != device() || values.numel() == 0) {
    return Work::Failed(std::move(name),
                        absl::InvalidArgumentError(absl::StrCat(
                            "expected numbers that lie contiguous on ", device().str())));
  }
  return lane(which).Sum(std::move(name), values, *type);
}

void NcclCommunicator::Abort(absl::Status reason) {
  group_->Abort(std::move(reason));
  const absl::Status failure = group_->status();
  for (const auto& each : lanes_) each->FailPending(failure);
  const Clock::time_point deadline = Clock::now() + options_.abort_patience;
  for (const auto& each : lanes_) {
    if (each->AwaitEnd(deadline)) continue;
    spdlog::error("NCCL: rank {} is still in the communicator that ended with \"{}\"", rank(),
                  std::string(failure.message()));
  }
}

Communicator::Traffic NcclCommunicator::traffic() const {
  Traffic all;
  for (const auto& each : lanes_) {
    const Traffic of_lane = each->traffic();
    all.bytes_sent += of_lane.bytes_sent;
    all.bytes_received += of_lane.bytes_received;
  }
  return all;
}

}  // namespace albef
