// How the virtual ranks of a run are spread over its workers (design §4).
//
// Every worker hosts one contiguous slice. A slice is a list of maximal whole subtrees of the
// reduction tree over all virtual ranks: each is summed on the worker, and one partial sum per
// subtree leaves it, so few subtrees mean little traffic.
//
// Pure functions: every process of a run computes the same division without being told.
#ifndef ALBEF_COMM_SLICES_H_
#define ALBEF_COMM_SLICES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace albef {

// Virtual ranks [begin, end).
struct RankRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const RankRange&, const RankRange&) = default;
};

struct Slice {
  RankRange ranks;
  std::vector<RankRange> subtrees;  // from left to right; together they are `ranks`
};

// The nodes of the tree over [0, virtual_ranks) that lie wholly in `ranks` while their parents do
// not, from left to right. `ranks` must be a part of [0, virtual_ranks).
std::vector<RankRange> MaximalSubtrees(int64_t virtual_ranks, RankRange ranks);

// One slice per worker, in ascending order. Among all divisions it has, in this order of
// importance: the smallest largest slice (the time of a step), the fewest subtrees in the slice
// that has most of them (what a worker sends), the fewest subtrees altogether (what workers
// receive), and the larger slices first. INVALID_ARGUMENT unless 1 ≤ workers ≤ virtual_ranks.
absl::StatusOr<std::vector<Slice>> DivideRanks(int64_t virtual_ranks, int64_t workers);

// Gradient arenas that summing the slice from left to right takes: the finished subtrees' partial
// sums and the stack of the one in progress.
int NumGradientArenas(const Slice& slice);

}  // namespace albef

#endif  // ALBEF_COMM_SLICES_H_
