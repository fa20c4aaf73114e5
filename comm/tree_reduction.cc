#include "comm/tree_reduction.h"

#include <ATen/Parallel.h>
#include <torch/utils.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/tree.h"
#include "common/fault_point.h"
#include "common/status_macros.h"

namespace albef {
namespace {

// Elements that the reduction thread adds at a time on a CPU: few enough to stay in cache, and for
// LibTorch to do it on this thread alone instead of taking backward's cores.
constexpr int64_t kBlock = at::internal::GRAIN_SIZE / 2;

int64_t BlockSize(const torch::Tensor& tensor, int64_t numel) {
  return tensor.is_cpu() ? kBlock : std::max<int64_t>(numel, 1);
}

// The sum over `node`, whose leaves are the `subtrees` from `next` on with their sums in `operands`
// (overwritten). The root goes to `out`.
torch::Tensor Combine(RankRange node, const std::vector<RankRange>& subtrees,
                      const std::vector<torch::Tensor>& operands, size_t& next,
                      const torch::Tensor* out) {
  if (subtrees[next] == node) return operands[next++];
  const int64_t middle = node.begin + LeftChildLeaves(node.size());
  const torch::Tensor left = Combine({node.begin, middle}, subtrees, operands, next, nullptr);
  const torch::Tensor right = Combine({middle, node.end}, subtrees, operands, next, nullptr);
  const torch::Tensor& target = out != nullptr ? *out : left;
  AddTo(target, left, right);
  return target;
}

int64_t NumSubtrees(const std::vector<Slice>& slices) {
  int64_t subtrees = 0;
  for (const Slice& slice : slices) subtrees += static_cast<int64_t>(slice.subtrees.size());
  return subtrees;
}

int64_t Bytes(const std::vector<Communicator::Transfer>& transfers) {
  int64_t bytes = 0;
  for (const auto& transfer : transfers) bytes += static_cast<int64_t>(transfer.tensor.nbytes());
  return bytes;
}

}  // namespace

TreeReduction::TreeReduction(Communicator* communicator, std::vector<Slice> slices, KeptSums kept,
                             Options options)
    : communicator_(communicator),
      slices_(std::move(slices)),
      rank_(communicator == nullptr ? 0 : communicator->rank()),
      virtual_ranks_(slices_.empty() ? 0 : slices_.back().ranks.end),
      sums_(std::move(kept), slices_.at(static_cast<size_t>(rank_))),
      plan_(sums_.any_arena().numel(),
            options.bucket_bytes / static_cast<int64_t>(sums_.any_arena().element_size()),
            static_cast<int>(slices_.size()), std::move(options.regions)) {
  const size_t ranks = communicator_ == nullptr ? 1 : static_cast<size_t>(communicator_->size());
  TORCH_CHECK(slices_.size() == ranks, "TreeReduction: expected one slice for each of ", ranks,
              " ranks, got ", slices_.size());
  int64_t end = 0;
  for (const ElementRange& region : plan_.regions()) {
    TORCH_CHECK(region.offset >= end && region.end() <= sums_.any_arena().numel(),
                "TreeReduction: region [", region.offset, ", ", region.end(),
                ") overlaps another or leaves the arena");
    end = region.end();
  }
  if (!Distributed()) return;
  int64_t largest_share = 0;
  for (size_t bucket = 0; bucket < plan_.num_buckets(); ++bucket) {
    largest_share = std::max(largest_share, plan_.Share(bucket, rank_).numel);
  }
  const int64_t remote = NumSubtrees(slices_) - NumSubtrees({slices_[static_cast<size_t>(rank_)]});
  for (torch::Tensor& buffer : received_) {
    buffer = torch::empty({remote * largest_share}, sums_.any_arena().options());
  }
  PrepareStep();
  thread_ = std::thread([this] { Run(); });
}

TreeReduction::~TreeReduction() {
  if (!thread_.joinable()) return;
  bool under_way;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    under_way = step_started_ && !step_finished_;
    changed_.notify_all();
  }
  if (under_way) {
    communicator_->Abort(absl::CancelledError("the reduction of gradients was given up"));
  }
  thread_.join();
}

const torch::Tensor& TreeReduction::BeginLeaf() {
  torch::NoGradGuard no_grad;
  Leaf().zero_();
  return Leaf();
}

void TreeReduction::MarkReady(int64_t offset) {
  if (!Distributed() || !sums_.AtLastLeaf()) return;
  const int64_t region = plan_.RegionAt(offset);
  TORCH_CHECK(region >= 0, "TreeReduction: no region starts at element ", offset);
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(!region_ready_[static_cast<size_t>(region)], "TreeReduction: the region at element ",
              offset, " is final already");
  region_ready_[static_cast<size_t>(region)] = true;
  const auto [first, last] = plan_.BucketsOf(static_cast<size_t>(region));
  // Wakes the reduction thread where it has something to do, not for every parameter.
  bool is_news = !std::exchange(step_started_, true);
  for (size_t bucket = first; bucket <= last; ++bucket) is_news |= --regions_missing_[bucket] == 0;
  if (is_news) changed_.notify_all();
}

void TreeReduction::AddLeaf() {
  sums_.AddLeaf();
  if (Distributed() && sums_.Complete()) MarkAllReady();
}

absl::StatusOr<torch::Tensor> TreeReduction::Finish() {
  TORCH_CHECK(sums_.Complete(), "TreeReduction: expected the gradients of ", sums_.num_leaves(),
              " virtual ranks, got fewer");
  const torch::Tensor sum = sums_.Subtree(0);
  if (!Distributed()) {
    sums_.FoldRange(0, sum.numel());
    sums_.Reset();
    torch::NoGradGuard no_grad;
    return virtual_ranks_ == 1 ? sum : sum.div_(static_cast<double>(virtual_ranks_));
  }
  if (sums_.num_leaves() == 0) MarkAllReady();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return step_finished_; });
  if (!result_.ok()) return result_;
  PrepareStep();
  sums_.Reset();
  return sum;
}

std::optional<KeptSums> TreeReduction::Take() {
  {
    const std::lock_guard lock(mutex_);
    if (!step_finished_ || result_.ok() || overwritten_ || !sums_.Complete()) return std::nullopt;
  }
  for (size_t bucket = num_folded_; bucket < plan_.num_buckets(); ++bucket) Fold(bucket);
  return sums_.Take();
}

void TreeReduction::Reset() {
  sums_.Reset();
  if (!Distributed()) return;
  {
    const std::lock_guard lock(mutex_);
    if (!step_started_ || !result_.ok()) return;
  }
  communicator_->Abort(
      absl::CancelledError("a step was given up while its gradients were reduced"));
  MarkAllReady();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return step_finished_; });
  if (result_.ok()) result_ = communicator_->status();
}

int64_t TreeReduction::buffer_bytes() const {
  return Distributed() ? static_cast<int64_t>(received_[0].nbytes() + received_[1].nbytes()) : 0;
}

Communicator::Traffic TreeReduction::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

void TreeReduction::Run() {
  torch::NoGradGuard no_grad;
  std::unique_lock lock(mutex_);
  while (result_.ok()) {
    changed_.wait(lock, [this] { return stopping_ || (step_started_ && !step_finished_); });
    if (stopping_) return;
    lock.unlock();
    absl::Status result = ReduceStep();
    lock.lock();
    result_ = std::move(result);
    step_finished_ = true;
    changed_.notify_all();
  }
}

absl::Status TreeReduction::ReduceStep() {
  std::vector<Work> gathers;
  std::optional<Work> exchange;
  for (size_t bucket = 0; bucket <= plan_.num_buckets(); ++bucket) {
    std::optional<Work> previous = std::exchange(exchange, std::nullopt);
    if (bucket < plan_.num_buckets()) {
      if (!AwaitReady(bucket))
        return absl::CancelledError("the reduction of gradients was given up");
      exchange = StartExchange(bucket);
    }
    if (previous) {
      ASSIGN_OR_RETURN(Work gather, StartGather(bucket - 1, *previous));
      gathers.push_back(std::move(gather));
    }
  }
  for (const Work& gather : gathers) RETURN_IF_ERROR(gather.Wait());
  return absl::OkStatus();
}

bool TreeReduction::AwaitReady(size_t bucket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || all_ready_ || regions_missing_[bucket] == 0; });
  return !stopping_;
}

void TreeReduction::Fold(size_t bucket) const {
  const ElementRange& range = plan_.bucket(bucket);
  const int64_t block = BlockSize(received_[0], range.numel);
  for (int64_t offset = range.offset; offset < range.end(); offset += block) {
    sums_.FoldRange(offset, std::min(block, range.end() - offset));
  }
}

Work TreeReduction::StartExchange(size_t bucket) {
  Fold(bucket);
  num_folded_ = bucket + 1;
  std::vector<Communicator::Transfer> sends, receives;
  const int64_t own_share = plan_.Share(bucket, rank_).numel;
  int64_t slot = 0;
  for (int peer = 0; peer < static_cast<int>(slices_.size()); ++peer) {
    if (peer == rank_) continue;
    const ElementRange share = plan_.Share(bucket, peer);
    for (size_t i = 0; i < slices_[static_cast<size_t>(rank_)].subtrees.size(); ++i) {
      sends.push_back({peer, sums_.Subtree(i).narrow(0, share.offset, share.numel)});
    }
    for (size_t i = 0; i < slices_[static_cast<size_t>(peer)].subtrees.size(); ++i) {
      receives.push_back({peer, received_[bucket % 2].narrow(0, slot++ * own_share, own_share)});
    }
  }
  CountTraffic(Bytes(sends), Bytes(receives));
  return communicator_->Exchange(Lane::kGradients,
                                 absl::StrCat("exchange of gradients, bucket ", bucket),
                                 std::move(sends), std::move(receives));
}

absl::StatusOr<Work> TreeReduction::StartGather(size_t bucket, const Work& exchange) {
  RETURN_IF_ERROR(exchange.Wait());
  FaultPoint("reduction");
  std::vector<RankRange> subtrees;
  for (const Slice& slice : slices_) {
    subtrees.insert(subtrees.end(), slice.subtrees.begin(), slice.subtrees.end());
  }
  const std::vector<torch::Tensor> operands = Operands(bucket);
  const torch::Tensor mean = OwnShare(bucket);
  overwritten_ = true;
  const int64_t block = BlockSize(mean, mean.numel());
  for (int64_t offset = 0; offset < mean.numel(); offset += block) {
    const int64_t numel = std::min(block, mean.numel() - offset);
    std::vector<torch::Tensor> parts;
    for (const torch::Tensor& operand : operands) parts.push_back(operand.narrow(0, offset, numel));
    torch::Tensor part = mean.narrow(0, offset, numel);
    size_t next = 0;
    Combine({0, virtual_ranks_}, subtrees, parts, next, &part);
    part.div_(static_cast<double>(virtual_ranks_));
  }
  std::vector<torch::Tensor> shares;
  for (int owner = 0; owner < static_cast<int>(slices_.size()); ++owner) {
    const ElementRange share = plan_.Share(bucket, owner);
    shares.push_back(sums_.Subtree(0).narrow(0, share.offset, share.numel));
  }
  const auto own_bytes = static_cast<int64_t>(mean.nbytes());
  CountTraffic(own_bytes * (static_cast<int64_t>(slices_.size()) - 1),
               plan_.bucket(bucket).numel * mean.element_size() - own_bytes);
  return communicator_->AllGather(
      Lane::kGradients, absl::StrCat("gathering of gradients, bucket ", bucket), mean, shares);
}

void TreeReduction::CountTraffic(int64_t bytes_sent, int64_t bytes_received) {
  const std::lock_guard lock(mutex_);
  traffic_.bytes_sent += bytes_sent;
  traffic_.bytes_received += bytes_received;
}

std::vector<torch::Tensor> TreeReduction::Operands(size_t bucket) const {
  const ElementRange share = plan_.Share(bucket, rank_);
  std::vector<torch::Tensor> operands;
  int64_t slot = 0;
  for (size_t rank = 0; rank < slices_.size(); ++rank) {
    for (size_t i = 0; i < slices_[rank].subtrees.size(); ++i) {
      operands.push_back(static_cast<int>(rank) == rank_
                             ? sums_.Subtree(i).narrow(0, share.offset, share.numel)
                             : received_[bucket % 2].narrow(0, slot++ * share.numel, share.numel));
    }
  }
  return operands;
}

torch::Tensor TreeReduction::OwnShare(size_t bucket) const {
  const ElementRange share = plan_.Share(bucket, rank_);
  return sums_.Subtree(0).narrow(0, share.offset, share.numel);
}

void TreeReduction::PrepareStep() {
  regions_missing_ = plan_.RegionsPerBucket();
  region_ready_.assign(plan_.regions().size(), false);
  num_folded_ = 0;
  step_started_ = all_ready_ = overwritten_ = step_finished_ = false;
}

void TreeReduction::MarkAllReady() {
  const std::lock_guard lock(mutex_);
  step_started_ = all_ready_ = true;
  changed_.notify_all();
}

}  // namespace albef
