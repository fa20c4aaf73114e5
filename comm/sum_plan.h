// In which order a worker adds up the gradients of the virtual ranks it hosts, where some sums may
// be there already (design §4, Tree reduction).
//
// The tree's shape does not depend on who computed what, so a sum over one of its nodes that was
// made in an earlier generation stands for all leaves below it.
//
// Pure functions.
#ifndef ALBEF_COMM_SUM_PLAN_H_
#define ALBEF_COMM_SUM_PLAN_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "comm/slices.h"

namespace albef {

// For a stack of partial sums, which holds the sums over the slice's subtrees in the end.
struct SumPlan {
  enum class Kind {
    kLeaf,  // push the gradient of virtual rank `index`, to be computed, in a free arena
    kKept,  // push the sum over kept[index]
    kFold,  // add the topmost sum to the one below it; its arena is free again
  };
  struct Step {
    Kind kind;
    int64_t index = 0;
    friend bool operator==(const Step&, const Step&) = default;
  };

  std::vector<Step> steps;
  std::vector<RankRange> kept;  // the nodes used, from left to right
  int num_free_arenas = 0;      // that the leaves take, beside those of the kept sums

  int64_t num_leaves() const;
  bool Keeps(int64_t virtual_rank) const;
};

// Uses those of the `available` nodes that lie in the slice, as far as that takes no more than
// `max_arenas` arenas, kept sums included: the smallest are left out first. Without any it takes
// NumGradientArenas(slice).
SumPlan PlanSums(const Slice& slice, std::vector<RankRange> available = {},
                 int max_arenas = std::numeric_limits<int>::max());

}  // namespace albef

#endif  // ALBEF_COMM_SUM_PLAN_H_
