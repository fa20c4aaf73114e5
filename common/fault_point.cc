#include "common/fault_point.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <thread>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

struct ArmedFault {
  explicit ArmedFault(Fault f) : fault(std::move(f)) {}
  Fault fault;
  std::atomic<int64_t> arrivals{0};
  std::atomic<bool> tried{false};
};

struct ArmedFaults {
  fs::path directory;
  std::vector<std::unique_ptr<ArmedFault>> faults;  // of this process only
};

// What a fault point may touch is process-wide by nature. Set once, never freed.
std::atomic<const ArmedFaults*> armed_faults{nullptr};

// Creates the mark with its content at once; false when another process has it, or nobody can.
bool ClaimMark(const fs::path& directory, const std::string& mark) {
  const fs::path path = directory / mark;
  std::string temporary = (directory / ("." + mark + ".XXXXXX")).string();
  FileDescriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return false;
  const std::string content = fmt::format("{}\n", ::getpid());
  const bool written = WriteAll(fd.get(), std::as_bytes(std::span(content)), temporary).ok();
  const bool claimed = written && ::link(temporary.c_str(), path.c_str()) == 0;
  ::unlink(temporary.c_str());
  return claimed;
}

void CarryOut(const Fault& fault, const fs::path& mark) {
  if (fault.action == "kill") {
    ::kill(::getpid(), SIGKILL);
  } else if (fault.action == "stop") {
    ::raise(SIGSTOP);  // to this thread, which does nothing more before the process has stopped
  } else if (fault.action == "exit") {
    ::_exit(fault.number);
  } else if (fault.action == "abort") {
    std::abort();
  } else if (fault.action == "hang") {
    while (true) ::pause();
  } else {
    while (::access(mark.c_str(), F_OK) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

// What the caller of a fault point is to do.
struct Wanted {
  bool is_damage = false;
  std::optional<int> value = std::nullopt;
};

Wanted Reach(std::string_view phase, std::optional<int64_t> at) {
  Wanted wanted;
  const ArmedFaults* armed = armed_faults.load(std::memory_order_acquire);
  if (armed == nullptr) return wanted;
  for (const std::unique_ptr<ArmedFault>& entry : armed->faults) {
    const Fault& fault = entry->fault;
    if (fault.phase != phase) continue;
    const int64_t arrival = entry->arrivals.fetch_add(1) + 1;
    if (fault.at.has_value() && *fault.at != at.value_or(arrival)) continue;
    if (entry->tried.exchange(true) && !fault.is_repeated) continue;
    if (!ClaimMark(armed->directory, fault.mark) && !fault.is_repeated) continue;
    if (fault.action == "damage") {
      wanted.is_damage = true;
    } else if (fault.action == "value") {
      wanted.value = fault.number;
    } else {
      CarryOut(fault, armed->directory / fault.mark);
    }
  }
  return wanted;
}

bool IsName(std::string_view text) {
  return !text.empty() && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  c == '_' || c == '-' || c == '.';
         });
}

template <typename Number>
bool ParseNumber(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

absl::StatusOr<Fault> ParseFault(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        fmt::format("ALBEF_FAULT: \"{}\": {}; the form is PROCESS/PHASE[@AT]:ACTION", text, why));
  };
  const size_t slash = text.find('/');
  const size_t colon = text.rfind(':');
  if (slash == text.npos || colon == text.npos || colon < slash) {
    return refuse("no '/' with a ':' behind it");
  }
  Fault fault;
  fault.process = text.substr(0, slash);
  std::string_view phase = text.substr(slash + 1, colon - slash - 1);
  if (const size_t at = phase.find('@'); at != phase.npos) {
    if (!ParseNumber(phase.substr(at + 1), fault.at.emplace())) return refuse("no number after @");
    phase = phase.substr(0, at);
  }
  fault.phase = phase;
  if (!IsName(fault.process) || !IsName(fault.phase)) {
    return refuse("process and phase are words of letters, digits, '.', '_' and '-'");
  }
  std::string_view action = text.substr(colon + 1);
  if (action.ends_with('*')) {
    fault.is_repeated = true;
    action.remove_suffix(1);
  }
  if (action.starts_with("exit=")) {
    if (!ParseNumber(action.substr(5), fault.number) || fault.number < 0 || fault.number > 255) {
      return refuse("exit codes are 0 to 255");
    }
    action = "exit";
  } else if (action.starts_with("value=")) {
    if (!ParseNumber(action.substr(6), fault.number)) return refuse("no number after value=");
    action = "value";
  } else if (action != "kill" && action != "stop" && action != "abort" && action != "hang" &&
             action != "hold" && action != "damage") {
    return refuse("actions are kill, stop, exit=N, abort, hang, hold, damage and value=N");
  }
  fault.action = action;
  fault.mark = text.substr(0, text.size() - (fault.is_repeated ? 1 : 0));
  std::replace(fault.mark.begin(), fault.mark.end(), '/', '-');
  std::replace(fault.mark.begin(), fault.mark.end(), ':', '-');
  return fault;
}

}  // namespace

absl::StatusOr<std::vector<Fault>> ParseFaults(std::string_view text) {
  std::vector<Fault> faults;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (end > 0) {
      ASSIGN_OR_RETURN(Fault fault, ParseFault(text.substr(0, end)));
      faults.push_back(std::move(fault));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return faults;
}

absl::Status SetFaultProcess(std::string_view process) {
  const char* text = std::getenv("ALBEF_FAULT");
  if (text == nullptr || *text == '\0') return absl::OkStatus();
  ASSIGN_OR_RETURN(std::vector<Fault> faults, ParseFaults(text));
  const char* directory = std::getenv("ALBEF_FAULT_DIR");
  if (directory == nullptr || !fs::is_directory(directory)) {
    return absl::InvalidArgumentError(
        "ALBEF_FAULT is set, but ALBEF_FAULT_DIR names no existing folder for its marks");
  }
  auto armed = std::make_unique<ArmedFaults>();
  armed->directory = directory;
  for (Fault& fault : faults) {
    if (fault.process != process && fault.process != process.substr(0, process.find('.'))) continue;
    spdlog::warn("fault armed for a test mark={}", fault.mark);
    armed->faults.push_back(std::make_unique<ArmedFault>(std::move(fault)));
  }
  if (!armed->faults.empty()) armed_faults.store(armed.release());
  return absl::OkStatus();
}

bool FaultPoint(std::string_view phase, std::optional<int64_t> at) {
  return Reach(phase, at).is_damage;
}

std::optional<int> FaultValue(std::string_view phase, std::optional<int64_t> at) {
  return Reach(phase, at).value;
}

}  // namespace albef
