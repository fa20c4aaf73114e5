// Which checkpoints may go. A pure decision; the store carries it out.
#ifndef ALBEF_CHECKPOINT_RETENTION_H_
#define ALBEF_CHECKPOINT_RETENTION_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace albef {

struct RetentionPolicy {
  // The newest this many stay. Fewer than 2 count as 2: one alone would leave nothing to fall back
  // to.
  int64_t keep = 3;
  // Steps divisible by this stay for good.
  std::optional<int64_t> keep_every = std::nullopt;
};

// Steps out of `committed` (any order, distinct) to delete, oldest first. `last_verified` is the
// checkpoint last known to be whole; it stays, for nothing newer has proved to be readable.
std::vector<int64_t> StepsToDelete(std::span<const int64_t> committed,
                                   const RetentionPolicy& policy,
                                   std::optional<int64_t> last_verified);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_RETENTION_H_
