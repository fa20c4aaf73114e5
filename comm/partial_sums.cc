#include "comm/partial_sums.h"

#include <torch/utils.h>

#include <algorithm>

namespace albef {
namespace {

bool IsSame(const torch::Tensor& a, const torch::Tensor& b) { return a.data_ptr() == b.data_ptr(); }

}  // namespace

void AddTo(const torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right) {
  torch::NoGradGuard no_grad;
  torch::Tensor target = out;
  torch::add_out(target, left, right);
}

PartialSums::PartialSums(KeptSums kept, Slice slice) : slice_(std::move(slice)) {
  TORCH_CHECK(slice_.ranks.size() >= 1, "PartialSums: expected at least one virtual rank, got ",
              slice_.ranks.size());
  std::vector<RankRange> nodes;
  for (const KeptSums::Sum& sum : kept.sums) {
    nodes.push_back(sum.node);
    arenas_.push_back(sum.sum);
  }
  arenas_.insert(arenas_.end(), kept.arenas.begin(), kept.arenas.end());
  const int expected = NumGradientArenas(slice_);
  TORCH_CHECK(static_cast<int>(arenas_.size()) >= expected, "PartialSums: expected ", expected,
              " arenas for ", slice_.ranks.size(), " virtual ranks, got ", arenas_.size());
  for (const torch::Tensor& arena : arenas_) {
    TORCH_CHECK(arena.dim() == 1 && arena.is_contiguous() && arena.numel() == arenas_[0].numel(),
                "PartialSums: expected equal flat arenas, got ", arena.sizes());
  }
  plan_ = PlanSums(slice_, nodes, static_cast<int>(arenas_.size()));
  for (const RankRange& node : plan_.kept) {
    kept_.push_back(*std::ranges::find(kept.sums, node, &KeptSums::Sum::node));
  }
  Begin();
}

void PartialSums::Begin() {
  num_leaves_ = plan_.num_leaves();
  added_ = 0;
  next_ = 0;
  stack_.clear();
  // The first arena is taken first.
  free_.clear();
  for (auto arena = arenas_.rbegin(); arena != arenas_.rend(); ++arena) {
    const bool is_kept = std::ranges::any_of(
        kept_, [&](const KeptSums::Sum& sum) { return IsSame(sum.sum, *arena); });
    if (!is_kept) free_.push_back(*arena);
  }
  Proceed();
}

void PartialSums::Proceed() {
  if (Complete()) return PrepareEnd();  // all is kept
  for (; plan_.steps[next_].kind != SumPlan::Kind::kLeaf; ++next_) {
    if (plan_.steps[next_].kind == SumPlan::Kind::kKept) {
      stack_.push_back(kept_[static_cast<size_t>(plan_.steps[next_].index)].sum);
    } else {
      free_.push_back(std::move(stack_.back()));
      stack_.pop_back();
      AddTo(stack_.back(), stack_.back(), free_.back());
    }
  }
  if (AtLastLeaf()) PrepareEnd();
}

void PartialSums::PrepareEnd() {
  owed_.clear();
  subtrees_ = stack_;
  for (size_t i = next_; i < plan_.steps.size(); ++i) {
    const auto& [kind, index] = plan_.steps[i];
    switch (kind) {
      case SumPlan::Kind::kLeaf:
        subtrees_.push_back(Leaf());
        break;
      case SumPlan::Kind::kKept:
        subtrees_.push_back(kept_[static_cast<size_t>(index)].sum);
        break;
      case SumPlan::Kind::kFold:
        owed_.emplace_back(subtrees_[subtrees_.size() - 2], subtrees_.back());
        subtrees_.pop_back();
        break;
    }
  }
}

void PartialSums::AddLeaf() {
  TORCH_CHECK(!Complete(), "PartialSums: expected ", num_leaves_, " virtual ranks, got more");
  stack_.push_back(std::move(free_.back()));
  free_.pop_back();
  ++next_;
  ++added_;
  if (!Complete()) Proceed();
}

void PartialSums::FoldRange(int64_t offset, int64_t numel) const {
  for (const auto& [sum, operand] : owed_) {
    const torch::Tensor target = sum.narrow(0, offset, numel);
    AddTo(target, target, operand.narrow(0, offset, numel));
  }
}

void PartialSums::Reset() {
  if (!kept_.empty()) plan_ = PlanSums(slice_);
  kept_.clear();
  // The mean, which is still in use, is among those that stay.
  if (Complete()) {
    std::ranges::stable_partition(
        arenas_, [this](const torch::Tensor& arena) { return IsSame(arena, subtrees_[0]); });
  }
  arenas_.resize(static_cast<size_t>(NumGradientArenas(slice_)));
  Begin();
}

KeptSums PartialSums::Take() {
  KeptSums taken;
  for (size_t i = 0; i < slice_.subtrees.size(); ++i) {
    taken.sums.push_back({slice_.subtrees[i], subtrees_[i]});
  }
  for (const torch::Tensor& arena : arenas_) {
    const bool is_sum = std::ranges::any_of(
        subtrees_, [&](const torch::Tensor& subtree) { return IsSame(subtree, arena); });
    if (!is_sum) taken.arenas.push_back(arena);
  }
  return taken;
}

}  // namespace albef
