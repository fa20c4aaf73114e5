// RUN_DIR/coordinator/pulse: the coordinator's sign of life for workers that the network does not
// lead to it. Storage is often reached another way than the other hosts, so a worker that is cut
// off could claim the next term (term.h) and so take the coordinator away from all the others. It
// does not while the pulse beats and says that most of the members are led; and a coordinator that
// has lost most of its members leaves the others the time to take over before it goes on without
// them.
//
// Written in place, because a reader on NFS sees that as soon as it opens the file, and not synced:
// after a crash it means nothing. One coordinator writes; one that is stale may write for a moment
// longer, so the term counts.
#ifndef ALBEF_COORDINATOR_PULSE_H_
#define ALBEF_COORDINATOR_PULSE_H_

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "absl/status/status.h"

namespace albef {

// How long a worker that had a coordinator waits without one before it takes over (design §6).
inline constexpr std::chrono::milliseconds kTakeoverPatience{2000};
inline constexpr std::chrono::milliseconds kTakeoverPatiencePerOrder{1000};

inline constexpr std::chrono::milliseconds kPulseInterval{500};
// One that has not changed for so long is none.
inline constexpr std::chrono::milliseconds kPulseLimit{2000};

struct Pulse {
  int64_t term = 0;
  int64_t beat = 0;  // grows while the coordinator decides
  // At least half of the newest generation's members are in session with it; where nobody runs, of
  // the workers that were started together.
  bool has_most = false;

  bool operator==(const Pulse&) const = default;
};

absl::Status WritePulse(const std::filesystem::path& run_dir, const Pulse& pulse);

// None where there is no file, or it cannot be read or understood.
std::optional<Pulse> ReadPulse(const std::filesystem::path& run_dir);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_PULSE_H_
