// Counter-based random numbers: every draw is a function of (seed, purpose, position, lane, index).
//
// No generator state travels between threads, workers or checkpoints: whoever knows the position of
// a sample or the iteration of a step can make its draws again (design §4, Determinism). Philox
// 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
#ifndef ALBEF_COMMON_RANDOM_H_
#define ALBEF_COMMON_RANDOM_H_

#include <array>
#include <cstdint>

namespace albef {

// What a stream is for. The values are part of the format of a run: never reuse or renumber.
enum class RandomPurpose : uint32_t {
  kInitialWeights = 1,
  kSampleOrder = 2,
  kCaptionChoice = 3,
  kImageAugmentation = 4,
  kTokenMasking = 5,
  kCompute = 6,  // LibTorch's generator: where a virtual rank's dropout and negatives start
  kSynthetic = 7,
  kSubstitute = 8,
  kDropout = 9,
};

// A stream of random numbers. Cheap to construct; not thread-safe; copying copies the place in it.
class RandomStream {
 public:
  // `position` is what the draws belong to (sample position, iteration …), `lane` separates streams
  // of one position (virtual rank, attempt …).
  RandomStream(uint64_t seed, RandomPurpose purpose, uint64_t position, uint32_t lane = 0);

  uint32_t Next32();
  uint64_t Next64();

  // Uniform in [0, bound), unbiased. `bound` must be positive.
  uint64_t Below(uint64_t bound);

  // Uniform in [0, 1), 53 bits.
  double Uniform();
  double Uniform(double low, double high) { return low + (high - low) * Uniform(); }
  bool Bernoulli(double probability) { return Uniform() < probability; }

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_;
  int used_ = 4;
};

}  // namespace albef

#endif  // ALBEF_COMMON_RANDOM_H_
