#include "coordinator/pulse.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <string>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

fs::path PathIn(const fs::path& run_dir) { return run_dir / "coordinator" / "pulse"; }

}  // namespace

absl::Status WritePulse(const fs::path& run_dir, const Pulse& pulse) {
  const fs::path path = PathIn(run_dir);
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  // Always as long: what was there is replaced in one write.
  const std::string text = fmt::format("term {:20} beat {:20} most {}\n", pulse.term, pulse.beat,
                                       pulse.has_most ? 1 : 0);
  const ssize_t written = ::pwrite(fd.get(), text.data(), text.size(), 0);
  if (written < 0) return ErrnoStatus(errno, "write", path);
  return fd.Close(path);
}

std::optional<Pulse> ReadPulse(const fs::path& run_dir) {
  const absl::StatusOr<std::string> text = ReadFile(PathIn(run_dir));
  if (!text.ok()) return std::nullopt;
  Pulse pulse;
  int most = 0;
  if (std::sscanf(text->c_str(), "term %" SCNd64 " beat %" SCNd64 " most %d", &pulse.term,
                  &pulse.beat, &most) != 3) {
    return std::nullopt;
  }
  pulse.has_most = most != 0;
  return pulse;
}

}  // namespace albef
