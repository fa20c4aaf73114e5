#include "coordinator/committed_checkpoint.h"

#include <sys/stat.h>

#include <cerrno>

#include "checkpoint/catalogue.h"
#include "checkpoint/loaded_checkpoint.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

absl::StatusOr<v1::Checkpoint> DescribeCheckpoint(const fs::path& root, int64_t step,
                                                  const Manifest& manifest) {
  const fs::path folder = root / StepName(step);
  const fs::path path = folder / kManifestName;
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  v1::Checkpoint checkpoint;
  checkpoint.set_step(step);
  checkpoint.set_path(folder.string());
  checkpoint.set_state_digest(ToHex(manifest.state_digest));
  int64_t size_bytes = info.st_size;
  for (const ManifestFile& file : manifest.files) {
    size_bytes += static_cast<int64_t>(file.num_bytes);
  }
  checkpoint.set_size_bytes(size_bytes);
  checkpoint.set_committed_unix_seconds(static_cast<double>(info.st_mtim.tv_sec) +
                                        1e-9 * static_cast<double>(info.st_mtim.tv_nsec));
  return checkpoint;
}

absl::StatusOr<v1::Checkpoint> DescribeCheckpoint(const fs::path& root, int64_t step) {
  ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(root / StepName(step)));
  return DescribeCheckpoint(root, step, manifest);
}

}  // namespace albef
