#include "common/file_pattern.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFiles = 1'000'000;
constexpr size_t kMaxPatternBytes = 4096;

absl::Status TooMany() {
  return absl::InvalidArgumentError(
      fmt::format("the braces mean more than {} files; name them in several entries", kMaxFiles));
}

std::optional<int64_t> ParseNumber(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.size() > 12) {
    return std::nullopt;
  }
  return value;
}

// "08..12" → 08 09 10 11 12; absent where it is no range.
absl::StatusOr<std::optional<std::vector<std::string>>> ExpandRange(std::string_view text) {
  const size_t dots = text.find("..");
  if (dots == text.npos) return std::nullopt;
  const std::string_view first = text.substr(0, dots), last = text.substr(dots + 2);
  const std::optional<int64_t> begin = ParseNumber(first), end = ParseNumber(last);
  if (!begin || !end) return std::nullopt;
  const int64_t step = *begin <= *end ? 1 : -1;
  if ((*end - *begin) * step >= static_cast<int64_t>(kMaxFiles)) return TooMany();
  const auto is_padded = [](std::string_view number) {
    return number.size() > 1 && number[number[0] == '-' ? 1 : 0] == '0';
  };
  const size_t digits =
      is_padded(first) || is_padded(last) ? std::max(first.size(), last.size()) : 0;
  std::vector<std::string> numbers;
  for (int64_t i = *begin;; i += step) {
    numbers.push_back(fmt::format("{:0{}}", i, digits));
    if (i == *end) return numbers;
  }
}

// The parts between the commas that stand in no inner braces.
std::vector<std::string_view> SplitAtCommas(std::string_view text) {
  std::vector<std::string_view> parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
    if (depth > 0 || text[i] != ',') continue;
    parts.push_back(text.substr(begin, i - begin));
    begin = i + 1;
  }
  parts.push_back(text.substr(begin));
  return parts;
}

absl::StatusOr<std::vector<std::string>> ExpandBraces(std::string_view text) {
  const size_t open = text.find('{');
  if (open == text.npos) {
    if (text.find('}') != text.npos) return absl::InvalidArgumentError("'}' without a '{' before");
    return std::vector<std::string>{std::string(text)};
  }
  size_t close = open;
  for (int depth = 0; close < text.size(); ++close) {
    depth += text[close] == '{' ? 1 : text[close] == '}' ? -1 : 0;
    if (depth == 0) break;
  }
  if (close == text.size()) return absl::InvalidArgumentError("'{' without its '}'");
  const std::string_view head = text.substr(0, open),
                         body = text.substr(open + 1, close - open - 1);
  if (head.find('}') != head.npos) return absl::InvalidArgumentError("'}' without a '{' before");
  std::vector<std::string> middles;
  ASSIGN_OR_RETURN(std::optional<std::vector<std::string>> range, ExpandRange(body));
  if (range) {
    middles = *std::move(range);
  } else {
    for (const std::string_view part : SplitAtCommas(body)) {
      ASSIGN_OR_RETURN(const std::vector<std::string> expanded, ExpandBraces(part));
      middles.insert(middles.end(), expanded.begin(), expanded.end());
      if (middles.size() > kMaxFiles) return TooMany();
    }
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> tails, ExpandBraces(text.substr(close + 1)));
  if (middles.size() * tails.size() > kMaxFiles) return TooMany();
  std::vector<std::string> all;
  for (const std::string& middle : middles) {
    for (const std::string& tail : tails) all.push_back(fmt::format("{}{}{}", head, middle, tail));
  }
  return all;
}

bool HasWildcard(std::string_view text) { return text.find_first_of("*?[") != text.npos; }

std::string EscapeWildcards(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("*?[\\").find(c) != std::string_view::npos) escaped.push_back('\\');
    escaped.push_back(c);
  }
  return escaped;
}

absl::StatusOr<std::vector<fs::path>> Match(const fs::path& root, const std::string& pattern) {
  const std::string whole = fs::path(EscapeWildcards(root.native())) / pattern;
  glob_t found{};
  const int status = ::glob(whole.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &found);
  const std::unique_ptr<glob_t, decltype(&::globfree)> owner(&found, ::globfree);
  if (status == GLOB_NOMATCH) {
    return absl::NotFoundError(fmt::format("{}: matches no file", (root / pattern).string()));
  }
  if (status != 0) return ErrnoStatus(errno, "look for the files of", root / pattern);
  std::vector<fs::path> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  std::ranges::sort(paths, {},
                    [](const fs::path& path) -> const std::string& { return path.native(); });
  return paths;
}

}  // namespace

absl::StatusOr<std::vector<fs::path>> ExpandFilePattern(const fs::path& root,
                                                        std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        fmt::format("a pattern of more than {} bytes", kMaxPatternBytes));
  }
  std::error_code error;
  if (fs::exists(root / pattern, error)) return std::vector<fs::path>{root / pattern};
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ExpandBraces(pattern));
  std::vector<fs::path> paths;
  for (const std::string& name : names) {
    if (!HasWildcard(name) || fs::exists(root / name, error)) {
      paths.push_back(root / name);
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<fs::path> matches, Match(root, name));
    paths.insert(paths.end(), matches.begin(), matches.end());
    if (paths.size() > kMaxFiles) return TooMany();
  }
  return paths;
}

}  // namespace albef
