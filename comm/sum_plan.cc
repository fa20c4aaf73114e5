#include "comm/sum_plan.h"

#include <algorithm>

#include "comm/tree.h"

namespace albef {
namespace {

void AppendSteps(RankRange node, const std::vector<RankRange>& available, SumPlan& plan) {
  if (std::ranges::find(available, node) != available.end()) {
    plan.steps.push_back({SumPlan::Kind::kKept, static_cast<int64_t>(plan.kept.size())});
    plan.kept.push_back(node);
    return;
  }
  if (node.size() == 1) {
    plan.steps.push_back({SumPlan::Kind::kLeaf, node.begin});
    return;
  }
  const int64_t middle = node.begin + LeftChildLeaves(node.size());
  AppendSteps({node.begin, middle}, available, plan);
  AppendSteps({middle, node.end}, available, plan);
  plan.steps.push_back({SumPlan::Kind::kFold});
}

int CountFreeArenas(const std::vector<SumPlan::Step>& steps) {
  int taken = 0;
  int most = 0;
  for (const SumPlan::Step& step : steps) {
    if (step.kind == SumPlan::Kind::kLeaf) most = std::max(most, ++taken);
    if (step.kind == SumPlan::Kind::kFold) --taken;
  }
  return most;
}

}  // namespace

int64_t SumPlan::num_leaves() const { return std::ranges::count(steps, Kind::kLeaf, &Step::kind); }

bool SumPlan::Keeps(int64_t virtual_rank) const {
  return std::ranges::any_of(kept, [&](const RankRange& node) {
    return node.begin <= virtual_rank && virtual_rank < node.end;
  });
}

SumPlan PlanSums(const Slice& slice, std::vector<RankRange> available, int max_arenas) {
  while (true) {
    SumPlan plan;
    for (const RankRange& subtree : slice.subtrees) AppendSteps(subtree, available, plan);
    plan.num_free_arenas = CountFreeArenas(plan.steps);
    const int num_arenas = plan.num_free_arenas + static_cast<int>(plan.kept.size());
    if (plan.kept.empty() || num_arenas <= max_arenas) return plan;
    std::erase(available, *std::ranges::min_element(plan.kept, {}, &RankRange::size));
  }
}

}  // namespace albef
