#include "common/log.h"

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <utility>
#include <vector>

#include "common/file.h"

namespace albef {
namespace {

constexpr std::array<std::pair<std::string_view, spdlog::level::level_enum>, 4> kLevels = {{
    {"debug", spdlog::level::debug},
    {"info", spdlog::level::info},
    {"warning", spdlog::level::warn},
    {"error", spdlog::level::err},
}};

bool IsFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' ||
                  c == '.';
         });
}

}  // namespace

absl::Status StartLogging(const LogOptions& options) {
  const auto level = std::find_if(kLevels.begin(), kLevels.end(),
                                  [&](const auto& entry) { return entry.first == options.level; });
  if (level == kLevels.end()) {
    return absl::InvalidArgumentError(fmt::format(
        "log level \"{}\" is unknown; allowed: debug, info, warning, error", options.level));
  }
  if (!IsFileName(options.process)) {
    return absl::InvalidArgumentError(fmt::format(
        "\"{}\" cannot name a log file; use letters, digits, '-', '_' and '.'", options.process));
  }
  std::vector<spdlog::sink_ptr> sinks = {std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  absl::Status file_status;
  if (options.run_dir.has_value()) {
    const std::filesystem::path folder = *options.run_dir / "logs";
    const std::filesystem::path path = folder / (options.process + ".log");
    file_status = CreateDirectories(folder);
    if (file_status.ok()) {
      try {
        sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string()));
      } catch (const spdlog::spdlog_ex& error) {
        file_status = absl::UnavailableError(error.what());
      }
    }
  }
  auto logger = std::make_shared<spdlog::logger>(options.process, sinks.begin(), sinks.end());
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      "%Y-%m-%dT%H:%M:%S.%eZ %l %n[%P] %v", spdlog::pattern_time_type::utc));
  logger->set_level(level->second);
  logger->flush_on(level->second);
  logger->set_error_handler([](const std::string&) {});  // a full disk: the line is lost
  spdlog::set_default_logger(std::move(logger));
  if (!file_status.ok()) {
    spdlog::warn("no log file reason={}", LogValue(std::string(file_status.message())));
  }
  return absl::OkStatus();
}

std::string LogValue(std::string_view value) {
  const auto is_word = [](char c) {
    return static_cast<unsigned char>(c) > 0x20 && c != '"' && c != '=' && c != '\\' && c != 0x7f;
  };
  if (!value.empty() && std::all_of(value.begin(), value.end(), is_word)) {
    return std::string(value);
  }
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", c);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace albef
