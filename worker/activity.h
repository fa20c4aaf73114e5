// What a trainer is busy with, since when, and for how long it may be (design §6, Who is stuck).
//
// A limit is generous where time depends on the outside (set-up, storage, evaluation) and while a
// generation warms up; afterwards what repeats every step may take five times what it usually does,
// but never less than the hang limit.
//
// Thread-safe.
#ifndef ALBEF_WORKER_ACTIVITY_H_
#define ALBEF_WORKER_ACTIVITY_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "worker/section.h"

namespace albef {

struct ActivityLimits {
  double hang_limit_s = 10;
  double startup_limit_s = 600;
};

class ActivityTracker {
 public:
  using Clock = std::chrono::steady_clock;

  struct Snapshot {
    Section section = Section::kSetup;
    double section_seconds = 0;
    double section_limit_seconds = 0;  // 0: no limit
    int64_t generation = 0;
    int64_t iteration = 0;
  };

  explicit ActivityTracker(const ActivityLimits& limits,
                           std::function<Clock::time_point()> now = Clock::now);

  void Enter(Section section);

  // A generation starts to run, or an iteration of it ends.
  void StartGeneration(int64_t generation, int64_t iteration);
  void EndIteration(int64_t iteration);

  Snapshot Now() const;

 private:
  static constexpr size_t kNumSections = static_cast<size_t>(Section::kEvaluate) + 1;
  static constexpr size_t kDurations = 256;  // remembered per section
  static constexpr int64_t kWarmUpIterations = 5;

  double Limit() const;

  const ActivityLimits limits_;
  const std::function<Clock::time_point()> now_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Section section_ = Section::kSetup;
  Clock::time_point entered_;
  int64_t generation_ = 0;
  int64_t iteration_ = 0;
  int64_t iterations_in_generation_ = 0;
  std::array<std::vector<double>, kNumSections> durations_;  // the newest ones, in a ring
  std::array<size_t, kNumSections> next_ = {};
};

}  // namespace albef

#endif  // ALBEF_WORKER_ACTIVITY_H_
