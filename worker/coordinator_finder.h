// Where a worker finds its coordinator, and what the run directory says about the run meanwhile.
//
// Embedded: RUN_DIR/coordinator.json, but only of this start: one that an earlier job left behind
// (its term is not above `stale_term`) counts as none. External: the address that the worker was
// given, and every other time what coordinator.json says, if that is newer than what was met
// before: a coordinator that was restarted may have another port.
//
// Reads files, so it may take as long as the storage does: not for an event loop. For one thread at
// a time.
#ifndef ALBEF_WORKER_COORDINATOR_FINDER_H_
#define ALBEF_WORKER_COORDINATOR_FINDER_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "coordinator/coordinator_file.h"
#include "coordinator/pulse.h"
#include "coordinator/recorder.h"

namespace albef {

struct CoordinatorSighting {
  std::string address = {};  // to dial; empty: there is none to be found yet
  std::string authorization = {};
  CoordinatorInfo file = {};     // term 0: none, or a stale one
  int64_t newest_term = 0;       // that anybody has claimed
  std::optional<Pulse> pulse;    // as it is in the file
  std::optional<Outcome> ended;  // the run has ended since this worker started
  std::string trouble = {};      // why there is nothing to dial

  bool operator==(const CoordinatorSighting&) const = default;
};

// What an earlier start may have left: to be read before anybody starts a coordinator.
struct RunDirectoryPast {
  int64_t newest_term = 0;
  std::string outcome_identity = {};  // changes when the file is replaced
};
RunDirectoryPast ReadRunDirectoryPast(const std::filesystem::path& run_dir);

class CoordinatorFinder {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    std::string external_address = {};  // empty: embedded
    int64_t stale_term = 0;
    std::string past_outcome_identity = {};
  };

  explicit CoordinatorFinder(Options options) : options_(std::move(options)) {}

  CoordinatorSighting Look();

 private:
  const Options options_;
  int64_t num_looks_ = 0;
};

}  // namespace albef

#endif  // ALBEF_WORKER_COORDINATOR_FINDER_H_
