#include "comm/partial_sums.h"

#include <torch/utils.h>

#include <bit>
#include <utility>

#include "comm/tree.h"

namespace albef {

void AddTo(const torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right) {
  torch::NoGradGuard no_grad;
  torch::Tensor target = out;
  torch::add_out(target, left, right);
}

PartialSums::PartialSums(std::vector<torch::Tensor> arenas, const Slice& slice)
    : arenas_(std::move(arenas)), num_leaves_(slice.ranks.size()) {
  TORCH_CHECK(num_leaves_ >= 1, "PartialSums: expected at least one virtual rank, got ",
              num_leaves_);
  const auto expected = static_cast<size_t>(NumGradientArenas(slice));
  TORCH_CHECK(arenas_.size() == expected, "PartialSums: expected ", expected, " arenas for ",
              num_leaves_, " virtual ranks, got ", arenas_.size());
  for (const torch::Tensor& arena : arenas_) {
    TORCH_CHECK(arena.dim() == 1 && arena.is_contiguous() && arena.numel() == arenas_[0].numel(),
                "PartialSums: expected equal flat arenas, got ", arena.sizes());
  }
  for (const RankRange& subtree : slice.subtrees) {
    for (int64_t leaf = 0; leaf + 1 < subtree.size(); ++leaf) {
      folds_.push_back(AdditionsAfterLeaf(leaf));
    }
    // The last leaf of a subtree meets one partial sum per one bit of the leaves before it.
    folds_.push_back(std::popcount(static_cast<uint64_t>(subtree.size() - 1)));
  }
  full_depth_ = slice.subtrees.size() + static_cast<size_t>(folds_.back());
}

void PartialSums::AddLeaf() {
  TORCH_CHECK(!Complete(), "PartialSums: expected ", num_leaves_, " virtual ranks, got more");
  const int64_t leaf = added_++;
  ++depth_;
  if (Complete()) return;
  for (int i = FoldsAfter(leaf); i > 0; --i) {
    --depth_;
    AddTo(arenas_[depth_ - 1], arenas_[depth_ - 1], arenas_[depth_]);
  }
}

void PartialSums::FoldRange(int64_t offset, int64_t numel) const {
  for (size_t top = full_depth_ - 1; top >= full_depth_ - static_cast<size_t>(folds_.back());
       --top) {
    const torch::Tensor sum = arenas_[top - 1].narrow(0, offset, numel);
    AddTo(sum, sum, arenas_[top].narrow(0, offset, numel));
  }
}

void PartialSums::Reset() {
  depth_ = 0;
  added_ = 0;
}

}  // namespace albef
