#include "comm/tree_sum.h"

#include <torch/utils.h>

#include "comm/tree.h"

namespace albef {

TreeSum::TreeSum(std::vector<torch::Tensor> arenas, int64_t num_leaves)
    : arenas_(std::move(arenas)), num_leaves_(num_leaves) {
  TORCH_CHECK(num_leaves_ >= 1, "TreeSum: expected at least one virtual rank, got ", num_leaves_);
  TORCH_CHECK(arenas_.size() == static_cast<size_t>(TreeStackDepth(num_leaves_)),
              "TreeSum: expected ", TreeStackDepth(num_leaves_), " arenas for ", num_leaves_,
              " virtual ranks, got ", arenas_.size());
}

void TreeSum::AddLeaf() {
  TORCH_CHECK(added_ < num_leaves_, "TreeSum: expected ", num_leaves_, " virtual ranks, got more");
  ++depth_;
  for (int i = AdditionsAfterLeaf(added_++); i > 0; --i) Fold();
}

void TreeSum::Reset() {
  depth_ = 0;
  added_ = 0;
}

torch::Tensor TreeSum::Mean() {
  TORCH_CHECK(added_ == num_leaves_, "TreeSum: expected ", num_leaves_, " virtual ranks, got ",
              added_);
  while (depth_ > 1) Fold();
  Reset();
  torch::NoGradGuard no_grad;
  return num_leaves_ == 1 ? arenas_[0] : arenas_[0].div_(static_cast<double>(num_leaves_));
}

void TreeSum::Fold() {
  torch::NoGradGuard no_grad;
  --depth_;
  arenas_[depth_ - 1].add_(arenas_[depth_]);
}

}  // namespace albef
