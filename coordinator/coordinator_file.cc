#include "coordinator/coordinator_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr mode_t kOwnerOnly = 0600;

fs::path PathIn(const fs::path& run_dir) { return run_dir / "coordinator.json"; }

// Every field, for writing and for reading.
template <typename Info, typename Visitor>
void VisitInfo(Info& info, Visitor&& visit) {
  visit("run_id", info.run_id);
  visit("term", info.term);
  visit("address", info.address);
  visit("metrics_address", info.metrics_address);
  visit("pid", info.pid);
  visit("host", info.host);
}

}  // namespace

absl::StatusOr<CoordinatorInfo> ReadCoordinatorFile(const fs::path& run_dir) {
  const fs::path path = PathIn(run_dir);
  const absl::StatusOr<std::string> content = ReadFile(path);
  if (absl::IsNotFound(content.status())) {
    return absl::NotFoundError(fmt::format(
        "{}: no such file, so no coordinator was started for this run yet", path.string()));
  }
  RETURN_IF_ERROR(content.status());
  const Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  CoordinatorInfo info;
  bool is_complete = json.is_object();
  VisitInfo(info, [&]<typename T>(const char* key, T& field) {
    const bool is_right =
        json.is_object() && json.contains(key) &&
        (std::is_integral_v<T> ? json[key].is_number_integer() : json[key].is_string());
    is_complete &= is_right;
    if (is_right) field = json[key].template get<T>();
  });
  if (!is_complete) {
    return absl::DataLossError(
        fmt::format("{}: does not say where a coordinator is; start the run again, which replaces "
                    "the file",
                    path.string()));
  }
  return info;
}

absl::Status WriteCoordinatorFile(const fs::path& run_dir, const CoordinatorInfo& info) {
  Json json;
  VisitInfo(info, [&](const char* key, const auto& field) { json[key] = field; });
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  return WriteFileAtomic(PathIn(run_dir), text, kOwnerOnly);
}

}  // namespace albef
