// The files of a ledger: RUN_DIR/coordinator/ledger-<term>.sqlite, each with its journal. A new
// term begins with a copy of the newest one before it.
#ifndef ALBEF_COORDINATOR_LEDGER_FILE_H_
#define ALBEF_COORDINATOR_LEDGER_FILE_H_

#include <cstdint>
#include <filesystem>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// Makes the ledger file of `term` and returns its path. `prepare` gets the path of a copy of the
// newest ledger of a lower term, or of a file that does not exist where there is none, and leaves
// there a complete ledger and nothing in its journal. DATA_LOSS from it: the copy is damaged; it is
// set aside as ledger-<term>.sqlite.damaged, and `prepare` is called again without one.
//
// The file has its name only when it is complete. A process of a lower term that is in the middle
// of a transaction is no trouble: copies are taken until two are equal. Ledgers of lower terms are
// removed at the end.
absl::StatusOr<std::filesystem::path> MakeLedgerFile(
    const std::filesystem::path& run_dir, int64_t term,
    const std::function<absl::Status(const std::filesystem::path&)>& prepare);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_LEDGER_FILE_H_
