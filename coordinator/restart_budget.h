// When a worker's trainer is started again after a failure, and when no more.
//
// The first restart is immediate; further failures within `stable_after` wait longer and longer.
// The budget counts failures without progress of the run in between: a trainer that is killed now
// and then may be restarted for ever, one that only ever fails is given up. Not thread-safe.
#ifndef ALBEF_COORDINATOR_RESTART_BUDGET_H_
#define ALBEF_COORDINATOR_RESTART_BUDGET_H_

#include <algorithm>
#include <chrono>

#include "coordinator/membership.h"

namespace albef {

struct RestartPolicy {
  int max_failures_without_progress = 8;
  MonotonicDuration first_delay = std::chrono::milliseconds(500);  // before the second restart
  MonotonicDuration max_delay = std::chrono::seconds(30);
  MonotonicDuration stable_after = std::chrono::seconds(60);
};

class RestartBudget {
 public:
  void OnFailure(const RestartPolicy& policy, MonotonicTime now) {
    if (num_recent_ > 0 && now - last_failure_ > policy.stable_after) num_recent_ = 0;
    last_failure_ = now;
    ++num_recent_;
    ++num_without_progress_;
    MonotonicDuration delay = MonotonicDuration::zero();
    for (int i = 1; i < num_recent_ && delay < policy.max_delay; ++i) {
      delay = i == 1 ? policy.first_delay : 2 * delay;
    }
    restart_at_ = now + std::min(delay, policy.max_delay);
    is_exhausted_ = num_without_progress_ >= policy.max_failures_without_progress;
  }

  void OnProgress() { num_without_progress_ = 0; }

  bool IsExhausted() const { return is_exhausted_; }
  MonotonicTime restart_at() const { return restart_at_; }

 private:
  int num_recent_ = 0;
  int num_without_progress_ = 0;
  bool is_exhausted_ = false;
  MonotonicTime last_failure_ = {};
  MonotonicTime restart_at_ = {};
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RESTART_BUDGET_H_
