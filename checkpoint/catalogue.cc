#include "checkpoint/catalogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <system_error>

#include "checkpoint/manifest.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kStep = "step-";
constexpr std::string_view kDeleting = ".deleting";

// Takes `literal` and a decimal number from the front of `text`. Loose about zeros: callers compare
// with the name that the numbers make.
std::optional<uint64_t> TakeNumber(std::string_view& text, std::string_view literal) {
  if (!text.starts_with(literal)) return std::nullopt;
  text.remove_prefix(literal.size());
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

std::optional<int64_t> TakeStep(std::string_view& text) {
  const std::optional<uint64_t> number = TakeNumber(text, kStep);
  if (!number.has_value() || *number > std::numeric_limits<int64_t>::max()) return std::nullopt;
  return static_cast<int64_t>(*number);
}

}  // namespace

std::string StepName(int64_t step) { return fmt::format("{}{:010}", kStep, step); }

std::string PartialName(const PartialId& id) {
  return fmt::format("{}.t{}.g{}.partial", StepName(id.step), id.term, id.generation);
}

std::string DeletingName(int64_t step) { return fmt::format("{}{}", StepName(step), kDeleting); }

std::optional<int64_t> ParseStepName(std::string_view name) {
  std::string_view rest = name;
  const std::optional<int64_t> step = TakeStep(rest);
  if (!step.has_value() || StepName(*step) != name) return std::nullopt;
  return step;
}

std::optional<PartialId> ParsePartialName(std::string_view name) {
  std::string_view rest = name;
  const std::optional<int64_t> step = TakeStep(rest);
  if (!step.has_value()) return std::nullopt;
  const std::optional<uint64_t> term = TakeNumber(rest, ".t");
  if (!term.has_value()) return std::nullopt;
  const std::optional<uint64_t> generation = TakeNumber(rest, ".g");
  if (!generation.has_value()) return std::nullopt;
  const PartialId id{.step = *step, .term = *term, .generation = *generation};
  if (PartialName(id) != name) return std::nullopt;
  return id;
}

std::optional<int64_t> ParseDeletingName(std::string_view name) {
  if (!name.ends_with(kDeleting)) return std::nullopt;
  return ParseStepName(name.substr(0, name.size() - kDeleting.size()));
}

absl::StatusOr<Catalogue> ScanCheckpoints(const fs::path& root) {
  Catalogue catalogue;
  std::error_code error;
  fs::directory_iterator entry(root, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::optional<int64_t> committed = ParseStepName(name);
    const std::optional<PartialId> partial = ParsePartialName(name);
    const std::optional<int64_t> deleting = ParseDeletingName(name);
    if (!committed && !partial && !deleting) continue;
    const bool is_directory = entry->is_directory(error);
    if (error == std::errc::no_such_file_or_directory) {
      error.clear();  // renamed or removed since it was listed
      continue;
    }
    if (error) break;
    if (!is_directory) continue;
    if (committed) catalogue.committed.push_back(*committed);
    if (partial) catalogue.partial.push_back(*partial);
    if (deleting) catalogue.deleting.push_back(*deleting);
  }
  if (error) return ErrnoStatus(error.value(), "list folder", root);
  std::ranges::sort(catalogue.committed, std::greater<>());
  return catalogue;
}

absl::StatusOr<fs::path> FindCheckpoint(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path / kManifestName, ignored)) return path;
  const fs::path inner = path / "checkpoints";
  const fs::path& root = fs::is_directory(inner, ignored) ? inner : path;
  ASSIGN_OR_RETURN(const Catalogue catalogue, ScanCheckpoints(root));
  if (catalogue.committed.empty()) {
    return absl::NotFoundError(fmt::format(
        "{}: holds no checkpoint; expected a folder step-<iteration> or a run directory",
        path.string()));
  }
  return root / StepName(catalogue.committed.front());
}

}  // namespace albef
