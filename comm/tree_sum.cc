#include "comm/tree_sum.h"

#include "comm/tree.h"

namespace albef {

TreeSum::TreeSum(torch::Tensor gradient, int64_t num_leaves)
    : gradient_(std::move(gradient)), num_leaves_(num_leaves) {
  TORCH_CHECK(num_leaves_ >= 1, "TreeSum: expected at least one virtual rank, got ", num_leaves_);
  // The newest leaf stays in the gradient's arena until it is added or another one arrives.
  const int arenas = TreeStackDepth(num_leaves_) - 1;
  for (int i = 0; i < arenas; ++i) stack_.push_back(torch::empty_like(gradient_));
}

void TreeSum::AddLeaf() {
  torch::NoGradGuard no_grad;
  const int64_t leaf = next_leaf_++;
  TORCH_CHECK(leaf < num_leaves_, "TreeSum: expected ", num_leaves_, " virtual ranks, got more");
  const bool last = next_leaf_ == num_leaves_;
  if (last) next_leaf_ = 0;
  if (num_leaves_ == 1) return;

  int additions = AdditionsAfterLeaf(leaf);
  torch::Tensor right = gradient_;
  if (last) additions = static_cast<int>(depth_);  // what is left folds from right to left
  if (additions == 0) {
    stack_[depth_++].copy_(gradient_);
    return;
  }
  for (; additions > 0; --additions) {
    torch::Tensor& left = stack_[--depth_];
    left.add_(right);
    right = left;
  }
  if (last) {
    at::div_out(gradient_, right, torch::Scalar(static_cast<double>(num_leaves_)));
  } else {
    ++depth_;
  }
}

}  // namespace albef
