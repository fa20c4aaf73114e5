// The right to coordinate a run: RUN_DIR/coordinator/term-<n>, which exactly one process can
// create, also on NFS and Lustre. One term is one life of the coordinator; the newest counts.
//
// Whoever holds a term asks CheckCurrent before it changes anything that another coordinator may
// rely on: a process that was stopped does not notice otherwise that another one took over.
#ifndef ALBEF_COORDINATOR_TERM_H_
#define ALBEF_COORDINATOR_TERM_H_

#include <cstdint>
#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// 0 while nobody has ever coordinated the run.
absl::StatusOr<int64_t> HighestTerm(const std::filesystem::path& run_dir);

// Immutable; safe from any thread.
class Term {
 public:
  // ALREADY_EXISTS when another process has this term or a higher one.
  static absl::StatusOr<Term> Claim(const std::filesystem::path& run_dir, int64_t number);

  int64_t number() const { return number_; }

  // FAILED_PRECONDITION once there is a higher term, for ever. UNAVAILABLE when storage does not
  // say: ask again.
  absl::Status CheckCurrent() const;

 private:
  Term(std::filesystem::path run_dir, int64_t number)
      : run_dir_(std::move(run_dir)), number_(number) {}

  std::filesystem::path run_dir_;
  int64_t number_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_TERM_H_
