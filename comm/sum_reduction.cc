#include "comm/sum_reduction.h"

#include <torch/utils.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/fault_point.h"
#include "common/status_macros.h"

namespace albef {

SumReduction::SumReduction(Communicator* communicator, const std::vector<Slice>& slices,
                           torch::Tensor arena, Options options)
    : communicator_(communicator),
      num_leaves_(slices.at(static_cast<size_t>(communicator == nullptr ? 0 : communicator->rank()))
                      .ranks.size()),
      virtual_ranks_(slices.back().ranks.end),
      arena_(std::move(arena)),
      plan_(arena_.numel(), options.bucket_bytes / static_cast<int64_t>(arena_.element_size()),
            /*num_owners=*/1, std::move(options.regions)) {
  const size_t ranks = communicator_ == nullptr ? 1 : static_cast<size_t>(communicator_->size());
  TORCH_CHECK(slices.size() == ranks, "SumReduction: expected one slice for each of ", ranks,
              " ranks, got ", slices.size());
  TORCH_CHECK(arena_.dim() == 1 && arena_.is_contiguous(),
              "SumReduction: expected a flat arena, got ", arena_.sizes());
  PrepareStepLocked();
}

SumReduction::~SumReduction() { Reset(); }

const torch::Tensor& SumReduction::BeginLeaf() {
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(num_added_ < num_leaves_, "SumReduction: expected ", num_leaves_,
              " virtual ranks, got more");
  if (num_added_ == 0) {
    torch::NoGradGuard no_grad;
    arena_.zero_();
  }
  return arena_;
}

void SumReduction::MarkReady(int64_t offset) {
  const std::lock_guard lock(mutex_);
  if (!Distributed() || num_added_ + 1 != num_leaves_) return;
  const int64_t region = plan_.RegionAt(offset);
  TORCH_CHECK(region >= 0, "SumReduction: no region starts at element ", offset);
  const auto [first, last] = plan_.BucketsOf(static_cast<size_t>(region));
  for (size_t bucket = first; bucket <= last; ++bucket) --regions_missing_[bucket];
  SendReadyLocked(/*is_all_ready=*/false);
}

void SumReduction::AddLeaf() {
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(num_added_ < num_leaves_, "SumReduction: expected ", num_leaves_,
              " virtual ranks, got more");
  ++num_added_;
  if (Distributed() && num_added_ == num_leaves_) SendReadyLocked(/*is_all_ready=*/true);
}

void SumReduction::SendReadyLocked(bool is_all_ready) {
  for (size_t bucket = works_.size(); bucket < plan_.num_buckets(); ++bucket) {
    if (!is_all_ready && regions_missing_[bucket] > 0) return;
    const ElementRange& range = plan_.bucket(bucket);
    const torch::Tensor values = arena_.narrow(0, range.offset, range.numel);
    works_.push_back(communicator_->Sum(Lane::kGradients,
                                        absl::StrCat("sum of gradients, bucket ", bucket), values));
    // What a ring would move; how NCCL does it is its own affair.
    const auto others = static_cast<int64_t>(communicator_->size()) - 1;
    const int64_t bytes =
        2 * static_cast<int64_t>(values.nbytes()) * others / communicator_->size();
    traffic_.bytes_sent += bytes;
    traffic_.bytes_received += bytes;
  }
}

absl::StatusOr<torch::Tensor> SumReduction::Finish() {
  std::vector<Work> works;
  {
    const std::lock_guard lock(mutex_);
    TORCH_CHECK(num_added_ == num_leaves_, "SumReduction: expected the gradients of ", num_leaves_,
                " virtual ranks, got ", num_added_);
    works = works_;
  }
  for (const Work& work : works) RETURN_IF_ERROR(work.Wait());
  FaultPoint("reduction");
  const std::lock_guard lock(mutex_);
  PrepareStepLocked();
  torch::NoGradGuard no_grad;
  return virtual_ranks_ == 1 ? arena_ : arena_.div_(static_cast<double>(virtual_ranks_));
}

void SumReduction::Reset() {
  const std::lock_guard lock(mutex_);
  if (!works_.empty()) {
    communicator_->Abort(
        absl::CancelledError("a step was given up while its gradients were reduced"));
  }
  PrepareStepLocked();
}

Communicator::Traffic SumReduction::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

void SumReduction::PrepareStepLocked() {
  num_added_ = 0;
  regions_missing_ = plan_.RegionsPerBucket();
  works_.clear();
}

}  // namespace albef
