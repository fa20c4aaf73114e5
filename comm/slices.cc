#include "comm/slices.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "comm/tree.h"

namespace albef {
namespace {

constexpr int64_t kImpossible = std::numeric_limits<int64_t>::max();

void AppendSubtrees(RankRange node, RankRange ranks, std::vector<RankRange>& subtrees) {
  if (node.end <= ranks.begin || ranks.end <= node.begin) return;
  if (ranks.begin <= node.begin && node.end <= ranks.end) {
    subtrees.push_back(node);
    return;
  }
  const int64_t middle = node.begin + LeftChildLeaves(node.size());
  AppendSubtrees({node.begin, middle}, ranks, subtrees);
  AppendSubtrees({middle, node.end}, ranks, subtrees);
}

// Dynamic programme over the first rank of a slice and the number of slices from there on.
class Division {
 public:
  Division(int64_t virtual_ranks, int64_t workers)
      : virtual_ranks_(virtual_ranks),
        workers_(workers),
        largest_((virtual_ranks + workers - 1) / workers) {
    for (int64_t begin = 0; begin < virtual_ranks_; ++begin) {
      for (int64_t end = begin + 1; end <= std::min(begin + largest_, virtual_ranks_); ++end) {
        subtrees_.push_back(
            static_cast<int64_t>(MaximalSubtrees(virtual_ranks_, {begin, end}).size()));
      }
      subtrees_.resize(static_cast<size_t>((begin + 1) * largest_), kImpossible);
    }
  }

  std::vector<RankRange> Best() {
    const int64_t most = Solve([](int64_t here, int64_t rest) { return std::max(here, rest); });
    Solve([most](int64_t here, int64_t rest) {
      return here > most || rest == kImpossible ? kImpossible : here + rest;
    });
    std::vector<RankRange> slices;
    int64_t begin = 0;
    for (int64_t left = workers_; left > 0; --left) {
      const int64_t end = begin + size_[Index(begin, left)];
      slices.push_back({begin, end});
      begin = end;
    }
    return slices;
  }

 private:
  size_t Index(int64_t begin, int64_t left) const {
    return static_cast<size_t>(begin * (workers_ + 1) + left);
  }

  // The least cost of [0, virtual_ranks), where `combine` joins the subtrees of a slice with the
  // cost of all after it; leaves the size of each best first slice in size_.
  template <typename Combine>
  int64_t Solve(Combine combine) {
    const size_t states = Index(virtual_ranks_ + 1, 0);
    std::vector<int64_t> cost(states, kImpossible);
    size_.assign(states, 0);
    cost[Index(virtual_ranks_, 0)] = 0;
    for (int64_t left = 1; left <= workers_; ++left) {
      for (int64_t begin = 0; begin < virtual_ranks_; ++begin) {
        for (int64_t size = std::min(largest_, virtual_ranks_ - begin); size > 0; --size) {
          const int64_t rest = cost[Index(begin + size, left - 1)];
          const int64_t here = subtrees_[static_cast<size_t>(begin * largest_ + size - 1)];
          const int64_t total = combine(here, rest);
          if (total < cost[Index(begin, left)]) {
            cost[Index(begin, left)] = total;
            size_[Index(begin, left)] = size;
          }
        }
      }
    }
    return cost[Index(0, workers_)];
  }

  const int64_t virtual_ranks_;
  const int64_t workers_;
  const int64_t largest_;
  std::vector<int64_t> subtrees_;  // of [begin, begin + size), at begin · largest_ + size − 1
  std::vector<int64_t> size_;
};

}  // namespace

std::vector<RankRange> MaximalSubtrees(int64_t virtual_ranks, RankRange ranks) {
  std::vector<RankRange> subtrees;
  AppendSubtrees({0, virtual_ranks}, ranks, subtrees);
  return subtrees;
}

absl::StatusOr<std::vector<Slice>> DivideRanks(int64_t virtual_ranks, int64_t workers) {
  if (workers < 1 || workers > virtual_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "virtual_ranks = ", virtual_ranks, " cannot be spread over ", workers,
        " workers: every worker needs at least one; further workers can only be spares"));
  }
  std::vector<Slice> slices;
  for (const RankRange& ranks : Division(virtual_ranks, workers).Best()) {
    slices.push_back({.ranks = ranks, .subtrees = MaximalSubtrees(virtual_ranks, ranks)});
  }
  return slices;
}

int NumGradientArenas(const Slice& slice) {
  int arenas = 0;
  int finished = 0;
  for (const RankRange& subtree : slice.subtrees) {
    arenas = std::max(arenas, finished++ + TreeStackDepth(subtree.size()));
  }
  return arenas;
}

}  // namespace albef
