// Which part of the gradient arena is reduced when and by whom: the layout of a tree reduction as a
// value, equal on every worker.
//
// Immutable after construction; safe to read from any thread.
#ifndef ALBEF_COMM_REDUCTION_PLAN_H_
#define ALBEF_COMM_REDUCTION_PLAN_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace albef {

// Elements [offset, offset + numel) of the arena.
struct ElementRange {
  int64_t offset = 0;
  int64_t numel = 0;

  int64_t end() const { return offset + numel; }
  friend bool operator==(const ElementRange&, const ElementRange&) = default;
};

class ReductionPlan {
 public:
  // Buckets of `bucket_numel` elements (the last one smaller) from the back of an arena of `numel`,
  // each shared by `num_owners`. Regions must not overlap; empty ones are ignored.
  ReductionPlan(int64_t numel, int64_t bucket_numel, int num_owners,
                std::vector<ElementRange> regions);

  size_t num_buckets() const { return buckets_.size(); }
  // In the order in which they are reduced.
  const ElementRange& bucket(size_t index) const { return buckets_[index]; }

  // What `owner` reduces of a bucket: an even share, on cache-line borders.
  ElementRange Share(size_t bucket, int owner) const;

  // Ascending.
  const std::vector<ElementRange>& regions() const { return regions_; }
  // Index of the region that starts at `offset`; −1 if none does.
  int64_t RegionAt(int64_t offset) const;
  // The buckets that a region lies in, first and last.
  std::pair<size_t, size_t> BucketsOf(size_t region) const;
  // Regions in each bucket.
  std::vector<int64_t> RegionsPerBucket() const;

 private:
  size_t BucketAt(int64_t offset) const;

  int64_t numel_;
  int64_t bucket_numel_;
  int num_owners_;
  std::vector<ElementRange> buckets_;
  std::vector<ElementRange> regions_;
};

}  // namespace albef

#endif  // ALBEF_COMM_REDUCTION_PLAN_H_
