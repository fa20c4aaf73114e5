#include "dataloader/sample_order.h"

#include <fmt/format.h>

#include <bit>

#include "common/random.h"

namespace albef {
namespace {

// A mixing function of 64 bits (multiply, fold, multiply); only its low half-block bits are used.
uint64_t Scramble(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
  return x ^ (x >> 32);
}

}  // namespace

SampleOrder::SampleOrder(uint64_t seed, int64_t epoch, int64_t size)
    : size_(static_cast<uint64_t>(size)), half_bits_((std::bit_width(size_ - 1) + 1) / 2) {
  RandomStream random(seed, RandomPurpose::kSampleOrder, static_cast<uint64_t>(epoch));
  for (uint64_t& key : round_key_) key = random.Next64();
}

int64_t SampleOrder::At(int64_t position) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t block = static_cast<uint64_t>(position);
  do {
    uint64_t left = block >> half_bits_, right = block & mask;
    for (const uint64_t key : round_key_) {
      const uint64_t next = left ^ (Scramble(right ^ key) & mask);
      left = right;
      right = next;
    }
    block = left << half_bits_ | right;
  } while (block >= size_);
  return static_cast<int64_t>(block);
}

absl::StatusOr<EpochPlan> EpochPlan::Create(const Options& options) {
  const int64_t n = options.num_samples;
  const int64_t v = options.virtual_ranks;
  const int64_t b = options.batch_size;
  if (n < 1 || v < 1 || b < 1) {
    return absl::InvalidArgumentError(fmt::format(
        "cannot plan epochs of {} samples with virtual_ranks = {} and batch_size = {}: all must be "
        "positive",
        n, v, b));
  }
  if (n < v * b) {
    return absl::InvalidArgumentError(fmt::format(
        "the data has {0} samples, one step takes virtual_ranks × batch_size = {1} × {2} = {3}: "
        "the largest possible product is {0}; lower one of the two or add data",
        n, v, b, v * b));
  }
  return EpochPlan(options, (n + v - 1) / v / b);
}

int64_t EpochPlan::samples_per_epoch() const {
  return steps_per_epoch_ * options_.virtual_ranks * options_.batch_size;
}

EpochPlan::Place EpochPlan::At(int64_t iteration, int virtual_rank, int slot) const {
  const int64_t sample_position =
      (iteration * options_.virtual_ranks + virtual_rank) * options_.batch_size + slot;
  const int64_t epoch = Epoch(iteration);
  return {.epoch = epoch,
          .order_position = (sample_position - epoch * samples_per_epoch()) % options_.num_samples,
          .sample_position = sample_position};
}

}  // namespace albef
