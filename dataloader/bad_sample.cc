#include "dataloader/bad_sample.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

namespace albef {

std::string ToJson(const BadSample& sample) {
  const nlohmann::ordered_json line = {
      {"image", sample.image},
      {"reason", sample.reason},
      {"detail", sample.detail},
      {"position", sample.position},
      {"sample", sample.sample_index},
      {"substitute", sample.substitute},
      {"substitute_sample", sample.substitute_index},
  };
  // Paths are bytes: what is not UTF-8 becomes U+FFFD.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

absl::StatusOr<BadSampleLog> BadSampleLog::Open(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!file.valid()) return ErrnoStatus(errno, "open for appending", path);
  return BadSampleLog(std::move(file), path);
}

void BadSampleLog::Append(const BadSample& sample) {
  const std::string line = ToJson(sample) + "\n";
  const absl::Status status = WriteAll(file_.get(), std::as_bytes(std::span(line)), path_);
  if (status.ok()) return;
  if (dropped_lines_++ == 0) {
    spdlog::warn("bad sample not logged, further ones counted only: {}",
                 std::string(status.message()));
  }
}

}  // namespace albef
