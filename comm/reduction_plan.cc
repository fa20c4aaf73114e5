#include "comm/reduction_plan.h"

#include <algorithm>
#include <utility>

namespace albef {
namespace {

// Elements of four bytes in a cache line.
constexpr int64_t kGranule = 16;

}  // namespace

ReductionPlan::ReductionPlan(int64_t numel, int64_t bucket_numel, int num_owners,
                             std::vector<ElementRange> regions)
    : numel_(numel),
      bucket_numel_(std::max<int64_t>(bucket_numel, 1)),
      num_owners_(num_owners),
      regions_(std::move(regions)) {
  for (int64_t end = numel_; end > 0; end -= bucket_numel_) {
    const int64_t begin = std::max<int64_t>(end - bucket_numel_, 0);
    buckets_.push_back({begin, end - begin});
  }
  std::erase_if(regions_, [](const ElementRange& region) { return region.numel <= 0; });
  std::ranges::sort(regions_, {}, &ElementRange::offset);
}

ElementRange ReductionPlan::Share(size_t bucket, int owner) const {
  const ElementRange& whole = buckets_[bucket];
  const auto border = [&](int64_t index) {
    return index == num_owners_ ? whole.numel
                                : whole.numel / kGranule * index / num_owners_ * kGranule;
  };
  return {whole.offset + border(owner), border(owner + 1) - border(owner)};
}

int64_t ReductionPlan::RegionAt(int64_t offset) const {
  const auto region = std::ranges::lower_bound(regions_, offset, {}, &ElementRange::offset);
  if (region == regions_.end() || region->offset != offset) return -1;
  return region - regions_.begin();
}

std::pair<size_t, size_t> ReductionPlan::BucketsOf(size_t region) const {
  return {BucketAt(regions_[region].end() - 1), BucketAt(regions_[region].offset)};
}

std::vector<int64_t> ReductionPlan::RegionsPerBucket() const {
  std::vector<int64_t> regions(buckets_.size());
  for (size_t region = 0; region < regions_.size(); ++region) {
    const auto [first, last] = BucketsOf(region);
    for (size_t bucket = first; bucket <= last; ++bucket) ++regions[bucket];
  }
  return regions;
}

size_t ReductionPlan::BucketAt(int64_t offset) const {
  return static_cast<size_t>((numel_ - 1 - offset) / bucket_numel_);
}

}  // namespace albef
