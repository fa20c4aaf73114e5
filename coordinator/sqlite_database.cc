#include "coordinator/sqlite_database.h"

#include <fmt/format.h>

#include "common/status_macros.h"

namespace albef {
namespace {

int Bind(sqlite3_stmt* statement, int index, const SqliteDatabase::Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    return sqlite3_bind_int64(statement, index, *integer);
  }
  if (const auto* real = std::get_if<double>(&value)) {
    return sqlite3_bind_double(statement, index, *real);
  }
  if (const auto* text = std::get_if<std::string>(&value)) {
    return sqlite3_bind_text64(statement, index, text->data(), text->size(), SQLITE_STATIC,
                               SQLITE_UTF8);
  }
  return sqlite3_bind_null(statement, index);
}

struct Finalize {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};

}  // namespace

std::string SqliteDatabase::Row::Text(int column) const {
  const void* text = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return text == nullptr ? std::string()
                         : std::string(static_cast<const char*>(text), static_cast<size_t>(size));
}

absl::StatusOr<SqliteDatabase> SqliteDatabase::Open(const std::filesystem::path& path) {
  sqlite3* handle = nullptr;
  constexpr int kFlags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(path.c_str(), &handle, kFlags, "unix-none");
  SqliteDatabase database(path, handle);
  if (code != SQLITE_OK) return database.Error(code);
  sqlite3_extended_result_codes(handle, 1);
  return database;
}

absl::Status SqliteDatabase::Execute(std::string_view sql, std::initializer_list<Value> values,
                                     const std::function<void(const Row&)>& on_row) {
  sqlite3_stmt* raw = nullptr;
  int code =
      sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr);
  if (code != SQLITE_OK) return Error(code);
  const std::unique_ptr<sqlite3_stmt, Finalize> statement(raw);
  int index = 0;
  for (const Value& value : values) {
    if (code = Bind(raw, ++index, value); code != SQLITE_OK) return Error(code);
  }
  while ((code = sqlite3_step(raw)) == SQLITE_ROW) {
    if (on_row) on_row(Row(raw));
  }
  return code == SQLITE_DONE ? absl::OkStatus() : Error(code);
}

absl::Status SqliteDatabase::ExecuteScript(const std::string& sql) {
  const int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::Status SqliteDatabase::Error(int code) const {
  constexpr int kPrimary = 0xff;
  const std::string message =
      fmt::format("{}: {}", path_.string(),
                  handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_.get()));
  switch (code & kPrimary) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
    case SQLITE_CONSTRAINT:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace albef
