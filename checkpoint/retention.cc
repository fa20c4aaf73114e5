#include "checkpoint/retention.h"

#include <algorithm>

namespace albef {

std::vector<int64_t> StepsToDelete(std::span<const int64_t> committed,
                                   const RetentionPolicy& policy,
                                   std::optional<int64_t> last_verified) {
  std::vector<int64_t> steps(committed.begin(), committed.end());
  std::ranges::sort(steps);
  const size_t keep = static_cast<size_t>(std::max<int64_t>(policy.keep, 2));
  steps.resize(steps.size() - std::min(steps.size(), keep));
  std::erase_if(steps, [&](int64_t step) {
    const bool is_milestone =
        policy.keep_every.has_value() && *policy.keep_every > 0 && step % *policy.keep_every == 0;
    return is_milestone || step == last_verified;
  });
  return steps;
}

}  // namespace albef
