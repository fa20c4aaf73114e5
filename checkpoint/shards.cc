#include "checkpoint/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "common/status_macros.h"
#include "formats/safetensors.h"

namespace albef {
namespace {

// Valid once PlanShards has checked the shapes.
uint64_t NumBytes(const TensorInfo& tensor) { return *ByteSize(tensor.dtype, tensor.shape); }

absl::StatusOr<uint64_t> CheckedTotalBytes(std::span<const TensorInfo> tensors) {
  std::set<std::string_view> names;
  uint64_t total = 0;
  for (const TensorInfo& tensor : tensors) {
    if (!IsTensorKey(tensor.name)) {
      return absl::InvalidArgumentError(fmt::format(
          "state: key \"{}\" cannot be saved; keys are printable ASCII without '#'", tensor.name));
    }
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(
          fmt::format("state: key {} is given twice; keys must differ", tensor.name));
    }
    const std::optional<size_t> num_bytes = ByteSize(tensor.dtype, tensor.shape);
    if (!num_bytes.has_value() || __builtin_add_overflow(total, *num_bytes, &total)) {
      return absl::InvalidArgumentError(
          fmt::format("state: tensor {} has the impossible shape [{}]", tensor.name,
                      fmt::join(tensor.shape, ", ")));
    }
  }
  return total;
}

// Where shard `index` of `num_shards` begins in the run of all bytes, before rounding to a block.
uint64_t IdealBorder(uint64_t total, size_t index, size_t num_shards) {
  // ⌈total · index / num_shards⌉, without the product that may overflow.
  const uint64_t rest = total % num_shards * index;
  return total / num_shards * index + (rest + num_shards - 1) / num_shards;
}

std::string EntryName(const TensorInfo& tensor, const ShardEntry& entry) {
  if (entry.end - entry.begin == NumBytes(tensor)) return tensor.name;
  return fmt::format("{}#{}", tensor.name, entry.begin);
}

// One report per shard, in the order of the plan, each of the size that the plan gives it.
absl::StatusOr<std::vector<const ShardReport*>> MatchReports(const ShardPlan& plan,
                                                             std::span<const ShardReport> reports) {
  std::map<std::string_view, const ShardReport*> by_name;
  for (const ShardReport& report : reports) {
    if (!by_name.emplace(report.file_name, &report).second) {
      return absl::FailedPreconditionError(fmt::format("{} is reported twice", report.file_name));
    }
  }
  std::vector<const ShardReport*> matched;
  for (const Shard& shard : plan.shards) {
    const auto found = by_name.find(shard.file_name);
    if (found == by_name.end()) {
      return absl::FailedPreconditionError(fmt::format("{} is not reported", shard.file_name));
    }
    const ShardReport& report = *found->second;
    uint64_t data_bytes = 0;
    uint64_t num_blocks = 0;
    for (const ShardEntry& entry : shard.entries) {
      data_bytes += entry.end - entry.begin;
      num_blocks += NumBlocks(entry.end - entry.begin);
    }
    if (report.num_bytes < data_bytes || report.num_bytes - data_bytes != report.header_bytes ||
        report.block_hashes.size() != num_blocks) {
      return absl::FailedPreconditionError(fmt::format(
          "{} is reported with {} bytes ({} of them header) and {} block hashes; the plan has {} "
          "bytes of data in {} blocks",
          shard.file_name, report.num_bytes, report.header_bytes, report.block_hashes.size(),
          data_bytes, num_blocks));
    }
    matched.push_back(&report);
  }
  if (by_name.size() != matched.size()) {
    return absl::FailedPreconditionError(
        fmt::format("{} files are reported, the plan has {}", by_name.size(), matched.size()));
  }
  return matched;
}

}  // namespace

absl::StatusOr<ShardPlan> PlanShards(std::vector<TensorInfo> tensors, int num_shards) {
  if (num_shards < 1 || num_shards > kMaxShards) {
    return absl::InvalidArgumentError(
        fmt::format("number of shards: {} is not in [1, {}]", num_shards, kMaxShards));
  }
  ASSIGN_OR_RETURN(const uint64_t total, CheckedTotalBytes(tensors));
  ShardPlan plan{.tensors = std::move(tensors), .shards = {}};
  for (int i = 0; i < num_shards; ++i) {
    plan.shards.push_back(
        {.file_name = fmt::format("shard-{:05}-of-{:05}.safetensors", i, num_shards),
         .entries = {}});
  }

  // A block belongs to the shard in which its first byte lies.
  size_t shard = 0;
  uint64_t tensor_begin = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const uint64_t num_bytes = NumBytes(plan.tensors[i]);
    uint64_t begin = 0;
    do {
      while (shard + 1 < plan.shards.size() &&
             IdealBorder(total, shard + 1, plan.shards.size()) <= tensor_begin + begin) {
        ++shard;
      }
      uint64_t end = num_bytes;
      if (shard + 1 < plan.shards.size()) {
        const uint64_t border = IdealBorder(total, shard + 1, plan.shards.size()) - tensor_begin;
        end = std::min(num_bytes, begin + NumBlocks(border - begin) * kDigestBlockBytes);
      }
      plan.shards[shard].entries.push_back({.tensor_index = i, .begin = begin, .end = end});
      begin = end;
    } while (begin < num_bytes);
    tensor_begin += num_bytes;
  }
  for (Shard& each : plan.shards) {
    std::ranges::stable_sort(each.entries, std::greater<>(), [&](const ShardEntry& entry) {
      return ElementSize(plan.tensors[entry.tensor_index].dtype);
    });
  }
  return plan;
}

std::vector<TensorInfo> DescribeShard(const ShardPlan& plan, const Shard& shard) {
  std::vector<TensorInfo> tensors;
  tensors.reserve(shard.entries.size());
  for (const ShardEntry& entry : shard.entries) {
    const TensorInfo& whole = plan.tensors[entry.tensor_index];
    const uint64_t num_bytes = entry.end - entry.begin;
    TensorInfo& tensor = tensors.emplace_back(whole);
    tensor.name = EntryName(whole, entry);
    if (num_bytes != NumBytes(whole)) {
      tensor.shape = {static_cast<int64_t>(num_bytes / ElementSize(whole.dtype))};
    }
  }
  return tensors;
}

std::vector<NamedTensor> ShardTensors(const ShardPlan& plan, const Shard& shard,
                                      std::span<const NamedTensor> state) {
  std::vector<NamedTensor> tensors;
  tensors.reserve(shard.entries.size());
  auto entry = shard.entries.begin();
  for (TensorInfo& info : DescribeShard(plan, shard)) {
    const std::span<const std::byte> bytes =
        state[entry->tensor_index].tensor.bytes.subspan(entry->begin, entry->end - entry->begin);
    tensors.push_back(
        {.name = std::move(info.name),
         .tensor = {.dtype = info.dtype, .shape = std::move(info.shape), .bytes = bytes}});
    ++entry;
  }
  return tensors;
}

absl::StatusOr<ShardReport> WriteShard(const std::filesystem::path& directory, const Shard& shard,
                                       std::span<const NamedTensor> tensors,
                                       const WriteFunction& write) {
  ASSIGN_OR_RETURN(const std::string header, SafetensorsHeader(tensors, {}));
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(directory / shard.file_name, write));
  RETURN_IF_ERROR(file.Write(std::as_bytes(std::span(header))));
  ShardReport report{.file_name = shard.file_name,
                     .header_bytes = header.size(),
                     .num_bytes = 0,
                     .hash = {},
                     .block_hashes = {}};
  for (const NamedTensor& tensor : tensors) {
    for (std::span<const std::byte> rest = tensor.tensor.bytes; !rest.empty();) {
      const auto block = rest.first(std::min<size_t>(rest.size(), kDigestBlockBytes));
      report.block_hashes.push_back(HashBytes(block));
      RETURN_IF_ERROR(file.Write(block));
      rest = rest.subspan(block.size());
    }
  }
  RETURN_IF_ERROR(file.Finish());
  report.num_bytes = file.num_bytes();
  report.hash = file.hash();
  return report;
}

absl::StatusOr<Manifest> AssembleManifest(const ShardPlan& plan, const CheckpointInfo& info,
                                          std::span<const ShardReport> reports) {
  ASSIGN_OR_RETURN(const std::vector<const ShardReport*> matched, MatchReports(plan, reports));
  Manifest manifest{.info = info, .state_digest = {}, .files = {}, .tensors = {}};
  std::vector<std::vector<Hash128>> hashes_of_tensor(plan.tensors.size());
  for (const TensorInfo& tensor : plan.tensors) manifest.tensors.push_back({tensor, {}});
  // Shards are runs of the state, so a tensor meets its parts in order.
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    const ShardReport& report = *matched[i];
    manifest.files.push_back({report.file_name, report.num_bytes, report.hash});
    uint64_t file_begin = report.header_bytes;
    auto hash = report.block_hashes.begin();
    for (const auto& [tensor_index, begin, end] : plan.shards[i].entries) {
      manifest.tensors[tensor_index].parts.push_back({i, file_begin, begin, end});
      const auto last = hash + static_cast<ptrdiff_t>(NumBlocks(end - begin));
      hashes_of_tensor[tensor_index].insert(hashes_of_tensor[tensor_index].end(), hash, last);
      hash = last;
      file_begin += end - begin;
    }
  }
  std::vector<Hash128> block_hashes;
  for (const auto& hashes : hashes_of_tensor) {
    block_hashes.insert(block_hashes.end(), hashes.begin(), hashes.end());
  }
  ASSIGN_OR_RETURN(manifest.state_digest, StateDigest(plan.tensors, block_hashes));
  if (absl::Status status = CheckManifest(manifest); !status.ok()) {
    return absl::FailedPreconditionError(fmt::format(
        "manifest of {} shards: {}", plan.shards.size(), std::string(status.message())));
  }
  return manifest;
}

}  // namespace albef
