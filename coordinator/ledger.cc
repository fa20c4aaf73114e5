#include "coordinator/ledger.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/fault_point.h"
#include "common/log.h"
#include "common/resources.h"
#include "common/status_macros.h"
#include "coordinator/ledger_file.h"

namespace albef {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxReasonBytes = 2000;
// Generations whose members are kept for people to read.
constexpr int64_t kMembersKept = 64;

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

constexpr const char* kSchema = R"(
  CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE terms (term INTEGER PRIMARY KEY, pid INTEGER, host TEXT, began REAL);
  CREATE TABLE attempts (
    attempt INTEGER PRIMARY KEY, term INTEGER, began REAL,
    virtual_ranks INTEGER, target_step INTEGER, action INTEGER, import_path TEXT, device TEXT,
    ended REAL, state TEXT, reason TEXT, exit_code INTEGER, state_digest TEXT, step INTEGER);
  CREATE TABLE generations (
    generation INTEGER PRIMARY KEY, term INTEGER, changed REAL, cause TEXT, members TEXT);
  CREATE TABLE checkpoints (
    step INTEGER PRIMARY KEY, path TEXT, state_digest TEXT, size_bytes INTEGER, committed REAL,
    term INTEGER);
  CREATE TABLE commands (
    id INTEGER PRIMARY KEY, attempt INTEGER, term INTEGER, given REAL, command INTEGER,
    argument TEXT);
  CREATE TABLE reserve (id INTEGER PRIMARY KEY, filler BLOB);
)";
constexpr const char* kVersion = "1";

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string NewRunId() {
  std::array<unsigned char, 8> bytes = {};
  if (::getentropy(bytes.data(), bytes.size()) != 0) return fmt::format("run-{}", ::getpid());
  return fmt::format("run-{:02x}", fmt::join(bytes, ""));
}

std::string FormatMembers(const std::vector<GenerationMember>& members) {
  Json json = Json::array();
  for (const GenerationMember& member : members) {
    json.push_back({member.worker_id, member.incarnation});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::vector<GenerationMember>> ParseMembers(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::vector<GenerationMember> members;
  if (!json.is_array()) return absl::DataLossError("ledger: members of a generation are damaged");
  for (const Json& entry : json) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() ||
        !entry[1].is_number_integer()) {
      return absl::DataLossError("ledger: members of a generation are damaged");
    }
    members.push_back({.worker_id = entry[0], .incarnation = entry[1]});
  }
  return members;
}

absl::Status Configure(SqliteDatabase& database) {
  return database.ExecuteScript(
      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = PERSIST;"
      "PRAGMA synchronous = EXTRA; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;");
}

// A whole ledger at `path`: what is there is recovered and checked, or a new one is made.
absl::Status PrepareFile(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(SqliteDatabase database, SqliteDatabase::Open(path));
  // Rolls an interrupted transaction back.
  std::string problem, version;
  RETURN_IF_ERROR(database.Execute("PRAGMA quick_check(1)", {}, [&](const auto& row) {
    if (row.Text(0) != "ok") problem = row.Text(0);
  }));
  if (!problem.empty()) return absl::DataLossError(fmt::format("{}: {}", path.string(), problem));
  int64_t num_tables = 0;
  RETURN_IF_ERROR(database.Execute("SELECT count(*) FROM sqlite_master", {},
                                   [&](const auto& row) { num_tables = row.Integer(0); }));
  RETURN_IF_ERROR(Configure(database));
  if (num_tables == 0) {
    RETURN_IF_ERROR(database.ExecuteScript("BEGIN IMMEDIATE"));
    RETURN_IF_ERROR(database.ExecuteScript(kSchema));
    RETURN_IF_ERROR(database.Execute("INSERT INTO meta VALUES ('version', ?), ('run_id', ?)",
                                     {kVersion, NewRunId()}));
    RETURN_IF_ERROR(database.ExecuteScript("COMMIT"));
  }
  RETURN_IF_ERROR(database.Execute("SELECT value FROM meta WHERE key = 'version'", {},
                                   [&](const auto& row) { version = row.Text(0); }));
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{}: a ledger of version {}, this program knows {}; use the program that wrote "
                    "it, or another --run-dir",
                    path.string(), version, kVersion));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(Options options) {
  RETURN_IF_ERROR(options.term->CheckCurrent());
  ASSIGN_OR_RETURN(const std::filesystem::path path,
                   MakeLedgerFile(options.run_dir, options.term->number(), PrepareFile));
  ASSIGN_OR_RETURN(SqliteDatabase database, SqliteDatabase::Open(path));
  RETURN_IF_ERROR(Configure(database));
  std::unique_ptr<Ledger> ledger(new Ledger(std::move(options), std::move(database)));
  RETURN_IF_ERROR(ledger->Recover());
  const absl::Status reserved = ledger->Reserve();
  if (absl::IsFailedPrecondition(reserved)) return reserved;
  RETURN_IF_ERROR(ledger->database_.Execute(
      "INSERT INTO terms VALUES (?, ?, ?, ?)",
      {ledger->options_.term->number(), int64_t{::getpid()}, HostName(), UnixSeconds()}));
  ledger->thread_ = std::thread([raw = ledger.get()] { raw->WriteThread(); });
  return ledger;
}

Ledger::Ledger(Options options, SqliteDatabase database)
    : options_(std::move(options)), database_(std::move(database)) {}

Ledger::~Ledger() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Ledger::Write(LedgerEntry entry, Done done) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(entry), std::move(done)});
  }
  wake_.notify_one();
}

absl::Status Ledger::WriteAndWait(LedgerEntry entry) {
  std::promise<absl::Status> written;
  Write(std::move(entry), [&](absl::Status status) { written.set_value(std::move(status)); });
  return written.get_future().get();
}

absl::Status Ledger::Recover() {
  using Row = SqliteDatabase::Row;
  LedgerContents& contents = recovered_;
  RETURN_IF_ERROR(database_.Execute("SELECT value FROM meta WHERE key = 'run_id'", {},
                                    [&](const Row& row) { contents.run_id = row.Text(0); }));
  int64_t attempt = 0;
  RETURN_IF_ERROR(database_.Execute(
      "SELECT attempt, virtual_ranks, target_step, action, import_path, device, state, reason,"
      " exit_code, state_digest, step FROM attempts ORDER BY attempt DESC LIMIT 1",
      {}, [&](const Row& row) {
        attempt = row.Integer(0);
        contents.has_attempt = true;
        if (!row.IsNull(1)) {
          contents.configured =
              ConfiguredRun{.virtual_ranks = row.Integer(1),
                            .target_step = row.Integer(2),
                            .action = static_cast<v1::StartAction>(row.Integer(3)),
                            .import_path = row.Text(4)};
          contents.device = row.Text(5);
        }
        if (!row.IsNull(6)) {
          contents.outcome = Outcome{.state = row.Text(6),
                                     .reason = row.Text(7),
                                     .exit_code = static_cast<int>(row.Integer(8)),
                                     .state_digest = row.Text(9),
                                     .step = row.Integer(10)};
        }
      }));
  RETURN_IF_ERROR(database_.Execute(
      "SELECT command, argument FROM commands WHERE attempt = ? ORDER BY id", {attempt},
      [&](const Row& row) {
        contents.commands.push_back(
            {.command = static_cast<RunCommand>(row.Integer(0)), .argument = row.Text(1)});
      }));
  std::string members;
  RETURN_IF_ERROR(database_.Execute(
      "SELECT generation, cause, members FROM generations ORDER BY generation DESC LIMIT 1", {},
      [&](const Row& row) {
        contents.generation.generation = row.Integer(0);
        contents.generation.cause = row.Text(1);
        members = row.Text(2);
      }));
  if (!members.empty()) {
    ASSIGN_OR_RETURN(contents.generation.members, ParseMembers(members));
  }
  return absl::OkStatus();
}

absl::Status Ledger::Reserve() {
  int64_t num_free = 0, page_bytes = 0;
  RETURN_IF_ERROR(database_.Execute("PRAGMA freelist_count", {},
                                    [&](const auto& row) { num_free = row.Integer(0); }));
  RETURN_IF_ERROR(database_.Execute("PRAGMA page_size", {},
                                    [&](const auto& row) { page_bytes = row.Integer(0); }));
  if (num_free * page_bytes >= options_.reserve_bytes / 2) return absl::OkStatus();
  // Writing a large blob grows the file, writing it again grows the journal (which keeps its size),
  // and deleting it leaves its pages to those who come.
  const auto step = [&](std::string_view sql) {
    absl::Status status = database_.Execute(sql, {});
    if (!status.ok()) database_.ExecuteScript("ROLLBACK").IgnoreError();
    return status;
  };
  RETURN_IF_ERROR(options_.term->CheckCurrent());
  const std::string blob = fmt::format("zeroblob({})", options_.reserve_bytes);
  absl::Status status = step(fmt::format("INSERT OR REPLACE INTO reserve VALUES (1, {})", blob));
  if (status.ok()) status = step(fmt::format("UPDATE reserve SET filler = {}", blob));
  const absl::Status freed = database_.Execute("DELETE FROM reserve");
  if (!status.ok() && !is_reserve_missing_) {
    spdlog::warn("no room to reserve for the ledger bytes={} reason={}", options_.reserve_bytes,
                 LogValue(std::string(status.message())));
  }
  is_reserve_missing_ = !status.ok();
  return status.ok() ? freed : status;
}

absl::Status Ledger::Apply(const LedgerEntry& entry) {
  const int64_t term = options_.term->number();
  constexpr const char* kNewest = "(SELECT max(attempt) FROM attempts)";
  return std::visit(
      Overloaded{
          [&](const ledger_entry::NewAttempt&) {
            return database_.Execute("INSERT INTO attempts (term, began) VALUES (?, ?)",
                                     {term, UnixSeconds()});
          },
          [&](const ledger_entry::Configured& configured) {
            const ConfiguredRun& run = configured.run;
            return database_.Execute(
                fmt::format("UPDATE attempts SET virtual_ranks = ?, target_step = ?, action = ?,"
                            " import_path = ?, device = ? WHERE attempt = {}",
                            kNewest),
                {run.virtual_ranks, run.target_step, static_cast<int64_t>(run.action),
                 run.import_path, configured.device});
          },
          [&](const ledger_entry::Generation& generation) {
            return ApplyGeneration(generation.record);
          },
          [&](const ledger_entry::Checkpoint& committed) {
            const v1::Checkpoint& checkpoint = committed.checkpoint;
            return database_.Execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)",
                {checkpoint.step(), checkpoint.path(), checkpoint.state_digest(),
                 checkpoint.size_bytes(), checkpoint.committed_unix_seconds(), term});
          },
          [&](const ledger_entry::Command& command) {
            return database_.Execute(
                fmt::format("INSERT INTO commands (attempt, term, given, command, argument)"
                            " VALUES ({}, ?, ?, ?, ?)",
                            kNewest),
                {term, UnixSeconds(), static_cast<int64_t>(command.command), command.argument});
          },
          [&](const ledger_entry::Ended& ended) {
            const Outcome& outcome = ended.outcome;
            return database_.Execute(
                fmt::format("UPDATE attempts SET ended = ?, state = ?, reason = ?, exit_code = ?,"
                            " state_digest = ?, step = ? WHERE attempt = {}",
                            kNewest),
                {UnixSeconds(), outcome.state, outcome.reason.substr(0, kMaxReasonBytes),
                 static_cast<int64_t>(outcome.exit_code), outcome.state_digest, outcome.step});
          },
      },
      entry);
}

absl::Status Ledger::ApplyGeneration(const GenerationRecord& record) {
  RETURN_IF_ERROR(
      database_.Execute("INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?)",
                        {record.generation, options_.term->number(), UnixSeconds(),
                         record.cause.substr(0, kMaxReasonBytes), FormatMembers(record.members)}));
  return ForgetOldMembers(kMembersKept);
}

absl::Status Ledger::ForgetOldMembers(int64_t num_kept) {
  return database_.Execute(
      "UPDATE generations SET members = NULL WHERE members IS NOT NULL AND generation <= "
      "(SELECT generation FROM generations ORDER BY generation DESC LIMIT 1 OFFSET ?)",
      {num_kept});
}

absl::Status Ledger::Commit(const std::vector<Pending>& batch) {
  RETURN_IF_ERROR(options_.term->CheckCurrent());
  const auto commit = [&]() -> absl::Status {
    RETURN_IF_ERROR(database_.ExecuteScript("BEGIN IMMEDIATE"));
    for (const Pending& pending : batch) RETURN_IF_ERROR(Apply(pending.entry));
    FaultPoint("ledger", num_writes_ + 1);
    return database_.ExecuteScript("COMMIT");
  };
  const absl::Status status = commit();
  if (!status.ok()) {
    database_.ExecuteScript("ROLLBACK").IgnoreError();
    if (absl::IsResourceExhausted(status)) ForgetOldMembers(1).IgnoreError();
    return status;
  }
  ++num_writes_;
  FaultPoint("ledger_committed", num_writes_);
  // Whoever has the next term copied this file after claiming it: if nobody had, it has the entry.
  absl::Status current = options_.term->CheckCurrent();
  while (absl::IsUnavailable(current)) {
    std::this_thread::sleep_for(options_.retry_interval);
    current = options_.term->CheckCurrent();
  }
  return current;
}

void Ledger::WriteThread() {
  bool is_failure_logged = false;
  while (true) {
    std::vector<Pending> batch;
    bool is_last_try = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return is_closing_ || !queue_.empty(); });
      is_last_try = is_closing_;
      std::move(queue_.begin(), queue_.end(), std::back_inserter(batch));
      queue_.clear();
    }
    if (batch.empty()) return;
    absl::Status status = Commit(batch);
    while (!status.ok() && !absl::IsFailedPrecondition(status) && !is_last_try) {
      if (!std::exchange(is_failure_logged, true)) {
        spdlog::error("ledger cannot be written, trying again reason={}",
                      LogValue(std::string(status.message())));
      }
      {
        std::unique_lock lock(mutex_);
        is_last_try = wake_.wait_for(lock, options_.retry_interval, [&] { return is_closing_; });
      }
      status = Commit(batch);
    }
    if (status.ok() && std::exchange(is_failure_logged, false))
      spdlog::info("ledger written again");
    if (!status.ok() && !absl::IsFailedPrecondition(status)) {
      status = absl::CancelledError(status.message());
    }
    for (Pending& pending : batch) {
      if (pending.done) pending.done(status);
    }
    if (status.ok()) Reserve().IgnoreError();
  }
}

}  // namespace albef
