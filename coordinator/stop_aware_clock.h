// Time that stands still while this process was stopped.
//
// A process that was stopped (SIGSTOP, a suspended machine, a debugger) finds all deadlines passed
// when it goes on, though nobody had a chance to meet them. Whoever asks this clock at least every
// `max_gap` gets a time in which such gaps are missing, so every deadline has moved by the gap
// before it is judged. Not thread-safe.
#ifndef ALBEF_COORDINATOR_STOP_AWARE_CLOCK_H_
#define ALBEF_COORDINATOR_STOP_AWARE_CLOCK_H_

#include <algorithm>
#include <chrono>

#include "coordinator/membership.h"

namespace albef {

class StopAwareClock {
 public:
  explicit StopAwareClock(MonotonicTime now, MonotonicDuration max_gap = std::chrono::seconds(1))
      : max_gap_(max_gap), last_(now) {}

  // `now` of the monotonic clock to the time that counts.
  MonotonicTime Advance(MonotonicTime now) {
    const MonotonicDuration gap = std::max(now - last_, MonotonicDuration::zero());
    last_ = std::max(last_, now);
    last_gap_ = gap > max_gap_ ? gap : MonotonicDuration::zero();
    skipped_ += last_gap_;
    return last_ - skipped_;
  }

  // What the newest call left out; zero if it came in time.
  MonotonicDuration last_gap() const { return last_gap_; }

 private:
  const MonotonicDuration max_gap_;
  MonotonicTime last_;
  MonotonicDuration last_gap_ = MonotonicDuration::zero();
  MonotonicDuration skipped_ = MonotonicDuration::zero();
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_STOP_AWARE_CLOCK_H_
