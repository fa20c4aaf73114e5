// The run's ledger: what must survive the coordinator, in SQLite. One file per term,
// RUN_DIR/coordinator/ledger-<term>.sqlite.
//
// 1. What was acknowledged is never lost: an entry is acknowledged when its transaction is on disk
//    (rollback journal, synchronous = EXTRA) and afterwards still no higher term existed.
// 2. A new term begins with a copy of the ledger before it. A coordinator that was stopped and goes
//    on later finds its term over before it begins a transaction; one that was stopped in the
//    middle of one ends it in a file that nobody reads any more, and does not acknowledge it. No
//    locks are needed, which a stopped process would hold for ever and some storage does not have.
// 3. Room is reserved inside the file and its journal, and given back by forgetting the members of
//    old generations: a full disk does not keep generations from changing.
// 4. One thread writes, all entries that wait in one transaction. What storage does not take is
//    tried again until it does.
#ifndef ALBEF_COORDINATOR_LEDGER_H_
#define ALBEF_COORDINATOR_LEDGER_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/recorder.h"
#include "coordinator/run_machine.h"
#include "coordinator/sqlite_database.h"
#include "coordinator/term.h"

namespace albef {

namespace ledger_entry {

// A new attempt at the run begins: nothing that the one before left to do is to be done any more.
struct NewAttempt {};
// What the first workers fixed.
struct Configured {
  ConfiguredRun run = {};
  std::string device = {};
};
struct Generation {
  GenerationRecord record = {};
};
struct Checkpoint {
  v1::Checkpoint checkpoint = {};
};
// An operator's, carried out in this attempt.
struct Command {
  RunCommand command = RunCommand::kCheckpoint;
  std::string argument = {};
};
struct Ended {
  Outcome outcome = {};
};

}  // namespace ledger_entry

using LedgerEntry =
    std::variant<ledger_entry::NewAttempt, ledger_entry::Configured, ledger_entry::Generation,
                 ledger_entry::Checkpoint, ledger_entry::Command, ledger_entry::Ended>;

// What the terms before left.
struct LedgerContents {
  std::string run_id = {};  // for ever the same
  bool has_attempt = false;
  // Of the newest attempt.
  std::optional<ConfiguredRun> configured = {};
  std::string device = {};
  std::vector<ledger_entry::Command> commands = {};  // in order
  std::optional<Outcome> outcome = {};
  // Of the whole run; 0: none yet.
  GenerationRecord generation = {};
};

class Ledger {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    std::optional<Term> term = {};  // required
    int64_t reserve_bytes = 1 << 20;
    std::chrono::milliseconds retry_interval = std::chrono::milliseconds(500);
  };

  // FAILED_PRECONDITION when the term is over. A ledger that is damaged is set aside with a
  // warning: a run can go on from its checkpoints without one.
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(Options options);

  // Ends the thread; entries that wait are given one more try, then CANCELLED.
  ~Ledger();

  const LedgerContents& recovered() const { return recovered_; }

  // `done` is called on the ledger's thread, in the order of the calls: OK when the entry is
  // durable, FAILED_PRECONDITION when the term is over. Returns at once; from any thread.
  using Done = std::function<void(absl::Status)>;
  void Write(LedgerEntry entry, Done done = {});

  absl::Status WriteAndWait(LedgerEntry entry);

 private:
  struct Pending {
    LedgerEntry entry;
    Done done;
  };

  Ledger(Options options, SqliteDatabase database);

  absl::Status Recover();
  absl::Status Reserve();
  absl::Status Apply(const LedgerEntry& entry);
  absl::Status ApplyGeneration(const GenerationRecord& record);
  absl::Status Commit(const std::vector<Pending>& batch);
  absl::Status ForgetOldMembers(int64_t num_kept);
  void WriteThread();

  const Options options_;
  SqliteDatabase database_;  // of the thread, once it runs
  LedgerContents recovered_;
  int64_t num_writes_ = 0;
  bool is_reserve_missing_ = false;  // there was no room for it

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Pending> queue_;  // guarded by mutex_
  bool is_closing_ = false;    // guarded by mutex_
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_LEDGER_H_
