#include "worker/activity.h"

#include <algorithm>
#include <utility>

namespace albef {

ActivityTracker::ActivityTracker(const ActivityLimits& limits,
                                 std::function<Clock::time_point()> now)
    : limits_(limits), now_(std::move(now)), entered_(now_()) {}

void ActivityTracker::Enter(Section section) {
  const Clock::time_point now = now_();
  const std::lock_guard lock(mutex_);
  const auto index = static_cast<size_t>(section_);
  const double seconds = std::chrono::duration<double>(now - entered_).count();
  std::vector<double>& durations = durations_[index];
  if (durations.size() < kDurations) {
    durations.push_back(seconds);
  } else {
    durations[next_[index]++ % kDurations] = seconds;
  }
  section_ = section;
  entered_ = now;
}

void ActivityTracker::StartGeneration(int64_t generation, int64_t iteration) {
  const std::lock_guard lock(mutex_);
  generation_ = generation;
  iteration_ = iteration;
  iterations_in_generation_ = 0;
  for (std::vector<double>& durations : durations_) durations.clear();
  next_ = {};
}

void ActivityTracker::EndIteration(int64_t iteration) {
  const std::lock_guard lock(mutex_);
  iteration_ = iteration;
  ++iterations_in_generation_;
}

ActivityTracker::Snapshot ActivityTracker::Now() const {
  const Clock::time_point now = now_();
  const std::lock_guard lock(mutex_);
  return {.section = section_,
          .section_seconds = std::chrono::duration<double>(now - entered_).count(),
          .section_limit_seconds = Limit(),
          .generation = generation_,
          .iteration = iteration_};
}

double ActivityTracker::Limit() const {
  switch (section_) {
    case Section::kIdle:
    case Section::kExchange:
      return 0;
    case Section::kData:
    case Section::kCompute:
    case Section::kSnapshot:
      break;
    default:
      return limits_.startup_limit_s;
  }
  if (iterations_in_generation_ < kWarmUpIterations) return limits_.startup_limit_s;
  std::vector<double> sorted = durations_[static_cast<size_t>(section_)];
  if (sorted.empty()) return limits_.startup_limit_s;
  const size_t p99 = (sorted.size() - 1) * 99 / 100;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(p99), sorted.end());
  return std::max(limits_.hang_limit_s, 5 * sorted[p99]);
}

}  // namespace albef
