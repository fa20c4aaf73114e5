// The shape of the tree in which virtual ranks' gradients are summed (design §4, Tree reduction).
//
// Node(lo, hi) = Node(lo, mid) + Node(mid, hi) with mid = lo + the largest power of two below hi −
// lo. The shape depends on the number of virtual ranks alone, so the sum has the same bits however
// they are spread over workers. Summed from left to right it is a binary counter: a stack of
// complete subtrees whose sizes are the one bits of the number of leaves seen.
//
// Pure functions.
#ifndef ALBEF_COMM_TREE_H_
#define ALBEF_COMM_TREE_H_

#include <bit>
#include <cstdint>

namespace albef {

// Where the node over `count` leaves splits: leaves in its left child. `count` must be at least 2.
constexpr int64_t LeftChildLeaves(int64_t count) {
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(count - 1)));
}

// Partial sums the stack holds at most while `num_leaves` are summed from left to right.
constexpr int TreeStackDepth(int64_t num_leaves) {
  return num_leaves < 1 ? 0 : static_cast<int>(std::bit_width(static_cast<uint64_t>(num_leaves)));
}

}  // namespace albef

#endif  // ALBEF_COMM_TREE_H_
