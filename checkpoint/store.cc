#include "checkpoint/store.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "common/file.h"
#include "common/status_macros.h"

namespace albef {

namespace fs = std::filesystem;

namespace {

absl::Status RemoveAll(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? ErrnoStatus(error.value(), "remove", path) : absl::OkStatus();
}

absl::StatusOr<bool> Exists(const fs::path& path) {
  struct stat info;
  if (::lstat(path.c_str(), &info) == 0) return true;
  if (errno == ENOENT) return false;
  return ErrnoStatus(errno, "stat", path);
}

// What another process reported must be visible here before it is committed.
absl::Status CheckFilesArePresent(const fs::path& directory, const Manifest& manifest) {
  for (const ManifestFile& file : manifest.files) {
    struct stat info;
    const fs::path path = directory / file.name;
    if (::stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
    if (static_cast<uint64_t>(info.st_size) != file.num_bytes) {
      return absl::FailedPreconditionError(fmt::format(
          "{}: has {} bytes, its writer reported {}", path.string(), info.st_size, file.num_bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointStore>> CheckpointStore::Open(Options options) {
  if (options.retention.keep < 2) {
    return absl::InvalidArgumentError(
        fmt::format("checkpoint.keep = {}: at least 2 are kept, so that one is left when the "
                    "newest is damaged",
                    options.retention.keep));
  }
  if (options.retention.keep_every.has_value() && *options.retention.keep_every < 1) {
    return absl::InvalidArgumentError(
        fmt::format("checkpoint.keep_every = {}: must be positive; leave it out to keep the newest "
                    "only",
                    *options.retention.keep_every));
  }
  RETURN_IF_ERROR(CreateDirectories(options.root));
  return std::unique_ptr<CheckpointStore>(new CheckpointStore(std::move(options)));
}

absl::StatusOr<std::vector<int64_t>> CheckpointStore::CommittedSteps() const {
  ASSIGN_OR_RETURN(Catalogue catalogue, ScanCheckpoints(root()));
  return std::move(catalogue.committed);
}

absl::Status CheckpointStore::CleanUp(std::span<const PartialId> alive) {
  ASSIGN_OR_RETURN(const Catalogue catalogue, ScanCheckpoints(root()));
  for (const PartialId& id : catalogue.partial) {
    if (std::ranges::find(alive, id) != alive.end()) continue;
    spdlog::info("checkpoint removed reason=unfinished folder={}", PartialName(id));
    RETURN_IF_ERROR(Discard(id));
  }
  for (const int64_t step : catalogue.deleting) {
    RETURN_IF_ERROR(RemoveAll(root() / DeletingName(step)));
  }
  return absl::OkStatus();
}

absl::StatusOr<LoadedCheckpoint> CheckpointStore::Verify(int64_t step) const {
  ASSIGN_OR_RETURN(LoadedCheckpoint loaded,
                   LoadedCheckpoint::Open(StepPath(step), options_.num_threads));
  if (const int64_t iteration = loaded.manifest().info.counters.iteration; iteration != step) {
    return absl::DataLossError(
        fmt::format("{}: holds the state of iteration {}; the folder was renamed",
                    (StepPath(step) / kManifestName).string(), iteration));
  }
  return loaded;
}

absl::StatusOr<LoadedCheckpoint> CheckpointStore::Load(int64_t step) {
  absl::StatusOr<LoadedCheckpoint> loaded = Verify(step);
  if (loaded.ok()) MarkVerified(step);
  if (absl::IsDataLoss(loaded.status())) return Quarantine(step, loaded.status());
  return loaded;
}

absl::StatusOr<CheckpointStore::LoadResult> CheckpointStore::LoadNewestValid() {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, CommittedSteps());
  LoadResult result;
  for (const int64_t step : steps) {
    absl::StatusOr<LoadedCheckpoint> loaded = Load(step);
    if (loaded.ok()) {
      result.checkpoint.emplace(*std::move(loaded));
      return result;
    }
    // Gone since it was listed: deleted by retention or quarantined by another process.
    if (absl::IsNotFound(loaded.status())) continue;
    if (!absl::IsDataLoss(loaded.status())) return loaded.status();
    result.quarantined.emplace_back(loaded.status().message());
  }
  return result;
}

absl::Status CheckpointStore::Quarantine(int64_t step, const absl::Status& damage) {
  ASSIGN_OR_RETURN(const fs::path aside, SetAside(step, "damaged"));
  const std::string message = fmt::format("{}; the checkpoint is kept as {}",
                                          std::string(damage.message()), aside.string());
  spdlog::warn("checkpoint quarantined step={} reason=\"{}\"", step, message);
  return absl::DataLossError(message);
}

absl::StatusOr<fs::path> CheckpointStore::SetAside(int64_t step, std::string_view why) {
  const fs::path from = StepPath(step);
  for (int64_t k = 1;; ++k) {
    const fs::path aside = root() / fmt::format("{}.{}-{}", StepName(step), why, k);
    ASSIGN_OR_RETURN(const bool is_taken, Exists(aside));
    if (is_taken) continue;
    RETURN_IF_ERROR(Rename(from, aside));
    RETURN_IF_ERROR(SyncDirectory(root()));
    return aside;
  }
}

absl::StatusOr<fs::path> CheckpointStore::CreatePartial(const PartialId& id) {
  const fs::path path = root() / PartialName(id);
  RETURN_IF_ERROR(CreateDirectories(path));
  return path;
}

absl::Status CheckpointStore::Discard(const PartialId& id) {
  return RemoveAll(root() / PartialName(id));
}

absl::StatusOr<Manifest> CheckpointStore::Write(std::span<const NamedTensor> state,
                                                const CheckpointInfo& info,
                                                const WriteOptions& write_options) {
  if (info.counters.iteration < 0) {
    return absl::InvalidArgumentError(
        fmt::format("checkpoint of iteration {}: must not be negative", info.counters.iteration));
  }
  ASSIGN_OR_RETURN(const ShardPlan plan,
                   PlanShards(DescribeState(state), write_options.num_shards));
  for (const auto& [name, tensor] : state) {
    if (ByteSize(tensor.dtype, tensor.shape) != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          fmt::format("state: tensor {} has {} bytes, which is not shape [{}] of {}", name,
                      tensor.bytes.size(), fmt::join(tensor.shape, ", "), DTypeName(tensor.dtype)));
    }
  }
  const PartialId id{.step = info.counters.iteration,
                     .term = write_options.term,
                     .generation = write_options.generation};
  const auto write = [&]() -> absl::StatusOr<Manifest> {
    RETURN_IF_ERROR(Discard(id));
    ASSIGN_OR_RETURN(const fs::path partial, CreatePartial(id));
    std::vector<ShardReport> reports;
    for (const Shard& shard : plan.shards) {
      ASSIGN_OR_RETURN(
          reports.emplace_back(),
          WriteShard(partial, shard, ShardTensors(plan, shard, state), options_.write));
    }
    return Commit(id, plan, info, reports);
  };
  absl::StatusOr<Manifest> manifest = write();
  if (!manifest.ok()) {
    if (const absl::Status status = Discard(id); !status.ok()) {
      spdlog::warn("checkpoint remains folder={} reason=\"{}\"", PartialName(id),
                   std::string(status.message()));
    }
  }
  return manifest;
}

absl::StatusOr<Manifest> CheckpointStore::Commit(const PartialId& id, const ShardPlan& plan,
                                                 const CheckpointInfo& info,
                                                 std::span<const ShardReport> reports) {
  if (info.counters.iteration != id.step) {
    return absl::InvalidArgumentError(fmt::format("checkpoint of iteration {} in folder {}",
                                                  info.counters.iteration, PartialName(id)));
  }
  const fs::path partial = root() / PartialName(id);
  ASSIGN_OR_RETURN(Manifest manifest, AssembleManifest(plan, info, reports));
  RETURN_IF_ERROR(CheckFilesArePresent(partial, manifest));
  RETURN_IF_ERROR(WriteManifest(partial, manifest));
  RETURN_IF_ERROR(SyncDirectory(partial));
  RETURN_IF_ERROR(Publish(id, manifest));
  return manifest;
}

absl::Status CheckpointStore::WriteManifest(const fs::path& partial, const Manifest& manifest) {
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(partial / kManifestName, options_.write));
  const std::string text = FormatManifest(manifest);
  RETURN_IF_ERROR(file.Write(std::as_bytes(std::span(text))));
  return file.Finish();
}

absl::Status CheckpointStore::Publish(const PartialId& id, const Manifest& manifest) {
  // A run that went back to an older checkpoint comes past steps that are there already. The same
  // state need not be written twice; another one takes the step, but deletes nothing.
  ASSIGN_OR_RETURN(const bool is_taken, Exists(StepPath(id.step)));
  if (is_taken) {
    const absl::StatusOr<LoadedCheckpoint> present = Verify(id.step);
    if (present.ok() && present->manifest().state_digest == manifest.state_digest) {
      return Discard(id);
    }
    if (!present.ok() && !absl::IsDataLoss(present.status())) return present.status();
    ASSIGN_OR_RETURN(const fs::path aside,
                     SetAside(id.step, present.ok() ? "replaced" : "damaged"));
    spdlog::warn("checkpoint set aside step={} to={}", id.step, aside.string());
  }
  RETURN_IF_ERROR(Rename(root() / PartialName(id), StepPath(id.step)));
  return SyncDirectory(root());
}

absl::StatusOr<std::vector<int64_t>> CheckpointStore::ApplyRetention() {
  ASSIGN_OR_RETURN(const std::vector<int64_t> committed, CommittedSteps());
  std::optional<int64_t> last_verified;
  {
    const std::lock_guard lock(mutex_);
    last_verified = last_verified_;
  }
  std::vector<int64_t> steps = StepsToDelete(committed, options_.retention, last_verified);
  for (const int64_t step : steps) RETURN_IF_ERROR(Delete(step));
  return steps;
}

absl::Status CheckpointStore::Rename(const fs::path& from, const fs::path& to) {
  if (options_.may_rename) RETURN_IF_ERROR(options_.may_rename());
  if (std::rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, "rename", from);
  return absl::OkStatus();
}

absl::Status CheckpointStore::Delete(int64_t step) {
  // Renamed first: half a checkpoint must never bear a step's name.
  const fs::path deleting = root() / DeletingName(step);
  RETURN_IF_ERROR(RemoveAll(deleting));
  RETURN_IF_ERROR(Rename(StepPath(step), deleting));
  RETURN_IF_ERROR(SyncDirectory(root()));
  return RemoveAll(deleting);
}

void CheckpointStore::MarkVerified(int64_t step) {
  const std::lock_guard lock(mutex_);
  last_verified_ = step;
}

}  // namespace albef
