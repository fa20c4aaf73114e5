// A committed checkpoint, verified and ready to copy from.
#ifndef ALBEF_CHECKPOINT_LOADED_CHECKPOINT_H_
#define ALBEF_CHECKPOINT_LOADED_CHECKPOINT_H_

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/manifest.h"
#include "common/file.h"

namespace albef {

// Its files stay mapped as long as it lives, also after the folder is renamed or removed.
// Immutable; safe to read from any thread.
class LoadedCheckpoint {
 public:
  // Checks the manifest, the size and hash of every file, and the state digest over the tensors as
  // they will be handed out, on up to `num_threads` threads. DATA_LOSS names the file whose content
  // is damaged or missing and what is wrong with it; NOT_FOUND: there is no such folder;
  // FAILED_PRECONDITION: written by a newer version; any other error comes from storage and says
  // nothing about the content. Changes nothing on disk.
  static absl::StatusOr<LoadedCheckpoint> Open(const std::filesystem::path& directory,
                                               int num_threads = 1);

  const std::filesystem::path& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }

  // NOT_FOUND names the checkpoint and the key.
  absl::StatusOr<TensorInfo> Find(std::string_view key) const;

  // The bytes of a tensor, which lie in as many pieces as shards have a part of it.
  absl::StatusOr<std::vector<std::span<const std::byte>>> Pieces(std::string_view key) const;

  // Copies a tensor, whole or sliced, to memory of exactly its size. INVALID_ARGUMENT for another
  // size. Compare dtype and shape with Find first.
  absl::Status CopyTensor(std::string_view key, std::span<std::byte> destination) const;

 private:
  LoadedCheckpoint(std::filesystem::path directory, Manifest manifest,
                   std::vector<MappedFile> files);

  absl::StatusOr<const ManifestTensor*> FindTensor(std::string_view key) const;
  std::vector<std::span<const std::byte>> PiecesOf(const ManifestTensor& tensor) const;

  std::filesystem::path directory_;
  Manifest manifest_;
  std::vector<MappedFile> files_;  // as manifest_.files
  std::map<std::string, size_t, std::less<>> index_;
};

// Reads and checks the manifest alone; errors as LoadedCheckpoint::Open.
absl::StatusOr<Manifest> ReadManifest(const std::filesystem::path& directory);

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_LOADED_CHECKPOINT_H_
