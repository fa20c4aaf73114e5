// A thin owner of one SQLite connection: statements with typed values, errors as absl::Status.
// A full disk is RESOURCE_EXHAUSTED, a file that is no database or a damaged one DATA_LOSS, other
// trouble UNAVAILABLE; each names the file. Not thread-safe.
#ifndef ALBEF_COORDINATOR_SQLITE_DATABASE_H_
#define ALBEF_COORDINATOR_SQLITE_DATABASE_H_

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

class SqliteDatabase {
 public:
  using Value = std::variant<std::nullptr_t, int64_t, double, std::string>;

  // The row that a query stands at.
  class Row {
   public:
    explicit Row(sqlite3_stmt* statement) : statement_(statement) {}
    int64_t Integer(int column) const { return sqlite3_column_int64(statement_, column); }
    std::string Text(int column) const;
    bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

   private:
    sqlite3_stmt* statement_;
  };

  // Opens or creates. SQLite takes no locks: whoever opens must be the only one by other means.
  static absl::StatusOr<SqliteDatabase> Open(const std::filesystem::path& path);

  // One statement; '?' stand for the values in order.
  absl::Status Execute(std::string_view sql, std::initializer_list<Value> values = {},
                       const std::function<void(const Row&)>& on_row = {});

  // Any number of statements without values.
  absl::Status ExecuteScript(const std::string& sql);

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };

  SqliteDatabase(std::filesystem::path path, sqlite3* handle)
      : path_(std::move(path)), handle_(handle) {}

  absl::Status Error(int code) const;

  std::filesystem::path path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_SQLITE_DATABASE_H_
