// Which sample stands where: a keyed permutation per epoch, and the plan that cuts epochs into
// steps.
//
// Both are pure functions, so any worker computes the sample at any place without reading what came
// before it.
#ifndef ALBEF_DATALOADER_SAMPLE_ORDER_H_
#define ALBEF_DATALOADER_SAMPLE_ORDER_H_

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"

namespace albef {

// Permutation of [0, size) drawn by (seed, epoch): position → sample in O(1) time and memory.
//
// Cycle-walking Feistel network over the smallest power of four that holds `size`: fewer than four
// expected walks. Immutable; safe to call from any thread.
class SampleOrder {
 public:
  // `size` must be positive.
  SampleOrder(uint64_t seed, int64_t epoch, int64_t size);

  // Sample index at `position` in [0, size).
  int64_t At(int64_t position) const;

 private:
  static constexpr int kRounds = 8;

  uint64_t size_;
  int half_bits_;
  std::array<uint64_t, kRounds> round_key_;
};

// How the samples of an epoch fall to iterations, virtual ranks and slots of a batch.
//
// steps_per_epoch = ⌊⌈N / V⌉ / B⌋ as in the authors' loader (N samples, V virtual ranks, batch size
// B). What remains of an epoch is dropped and no batch straddles two epochs. Where V does not
// divide N, ⌈N / V⌉ · V exceeds N by up to V − 1: the last positions then read the head of the same
// order again, as the authors' distributed sampler pads. Immutable; safe to call from any thread.
class EpochPlan {
 public:
  struct Options {
    int64_t num_samples = 0;
    int virtual_ranks = 1;
    int batch_size = 1;
  };

  // INVALID_ARGUMENT when the samples do not fill one step.
  static absl::StatusOr<EpochPlan> Create(const Options& options);

  int64_t num_samples() const { return options_.num_samples; }
  int virtual_ranks() const { return options_.virtual_ranks; }
  int batch_size() const { return options_.batch_size; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  // Positions of one epoch: steps · V · B.
  int64_t samples_per_epoch() const;
  int64_t Epoch(int64_t iteration) const { return iteration / steps_per_epoch_; }

  struct Place {
    int64_t epoch;
    int64_t order_position;   // into the epoch's SampleOrder, below num_samples
    int64_t sample_position;  // counts on over all epochs; random draws are keyed by it
  };
  // `iteration` counts from 0 over all epochs, `slot` is the row in the batch.
  Place At(int64_t iteration, int virtual_rank, int slot) const;

 private:
  EpochPlan(const Options& options, int64_t steps_per_epoch)
      : options_(options), steps_per_epoch_(steps_per_epoch) {}

  Options options_;
  int64_t steps_per_epoch_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_SAMPLE_ORDER_H_
