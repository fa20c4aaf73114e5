#include "checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "common/status_macros.h"

namespace albef {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = R"({"xxh3_128":")";
constexpr size_t kHexDigits = 32;
constexpr std::string_view kFormat = "albef-checkpoint";
constexpr uint64_t kVersion = 1;
constexpr uint64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
// The manifest itself needs 5 levels: object, tensors, tensor, parts, part.
constexpr int kMaxDepth = 8;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status Invalid(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", where, what));
}

absl::Status Prefixed(std::string_view path, const absl::Status& status) {
  return absl::Status(status.code(), fmt::format("{}: {}", path, std::string(status.message())));
}

// ---- Reading members; `where` names the object they belong to.

absl::Status CheckMembers(const Json& object, std::string_view where,
                          std::initializer_list<const char*> names) {
  if (!object.is_object()) return Invalid(where, "not an object");
  for (const char* name : names) {
    if (!object.contains(name)) return Invalid(where, fmt::format("\"{}\" is missing", name));
  }
  for (const auto& [name, value] : object.items()) {
    if (std::ranges::find(names, name) == names.end()) {
      return Invalid(where, fmt::format("unknown member {}", Dump(name)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ToUnsigned(const Json& value, std::string_view where,
                                    uint64_t max = kMaxInt64) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > max) {
    return Invalid(where, fmt::format("not an integer in [0, {}]", max));
  }
  return value.get<uint64_t>();
}

absl::StatusOr<int64_t> ToCount(const Json& value, std::string_view where) {
  ASSIGN_OR_RETURN(const uint64_t number, ToUnsigned(value, where));
  return static_cast<int64_t>(number);
}

absl::StatusOr<std::string> ToText(const Json& value, std::string_view where) {
  if (!value.is_string()) return Invalid(where, "not a string");
  return value.get<std::string>();
}

absl::StatusOr<Hash128> ToHash(const Json& value, std::string_view where) {
  ASSIGN_OR_RETURN(const std::string text, ToText(value, where));
  const std::optional<Hash128> hash = HashFromHex(text);
  if (!hash.has_value()) return Invalid(where, "not 32 lower-case hexadecimal digits");
  return *hash;
}

absl::Status CheckArray(const Json& value, std::string_view where) {
  return value.is_array() ? absl::OkStatus() : Invalid(where, "not an array");
}

absl::StatusOr<CheckpointCounters> ToCounters(const Json& value) {
  RETURN_IF_ERROR(
      CheckMembers(value, "counters", {"iteration", "updates", "ema_updates", "epoch"}));
  CheckpointCounters counters;
  ASSIGN_OR_RETURN(counters.iteration, ToCount(value["iteration"], "counters.iteration"));
  ASSIGN_OR_RETURN(counters.updates, ToCount(value["updates"], "counters.updates"));
  ASSIGN_OR_RETURN(counters.ema_updates, ToCount(value["ema_updates"], "counters.ema_updates"));
  ASSIGN_OR_RETURN(counters.epoch, ToCount(value["epoch"], "counters.epoch"));
  return counters;
}

absl::StatusOr<std::map<std::string, std::string>> ToFacts(const Json& value) {
  if (!value.is_object()) return Invalid("facts", "not an object");
  std::map<std::string, std::string> facts;
  for (const auto& [name, fact] : value.items()) {
    ASSIGN_OR_RETURN(facts[name], ToText(fact, fmt::format("facts.{}", name)));
  }
  return facts;
}

absl::StatusOr<ManifestFile> ToFile(const Json& value, const std::string& where) {
  RETURN_IF_ERROR(CheckMembers(value, where, {"name", "bytes", "xxh3_128"}));
  ManifestFile file;
  ASSIGN_OR_RETURN(file.name, ToText(value["name"], where + ".name"));
  ASSIGN_OR_RETURN(file.num_bytes, ToUnsigned(value["bytes"], where + ".bytes"));
  ASSIGN_OR_RETURN(file.hash, ToHash(value["xxh3_128"], where + ".xxh3_128"));
  return file;
}

absl::StatusOr<TensorPart> ToPart(const Json& value, const std::string& where,
                                  const std::map<std::string, size_t>& file_index) {
  RETURN_IF_ERROR(CheckMembers(value, where, {"file", "file_begin", "begin", "end"}));
  TensorPart part;
  ASSIGN_OR_RETURN(const std::string file, ToText(value["file"], where + ".file"));
  const auto found = file_index.find(file);
  if (found == file_index.end()) return Invalid(where + ".file", "not one of the files");
  part.file_index = found->second;
  ASSIGN_OR_RETURN(part.file_begin, ToUnsigned(value["file_begin"], where + ".file_begin"));
  ASSIGN_OR_RETURN(part.begin, ToUnsigned(value["begin"], where + ".begin"));
  ASSIGN_OR_RETURN(part.end, ToUnsigned(value["end"], where + ".end"));
  return part;
}

absl::StatusOr<ManifestTensor> ToTensor(const Json& value, const std::string& where,
                                        const std::map<std::string, size_t>& file_index) {
  RETURN_IF_ERROR(CheckMembers(value, where, {"name", "dtype", "shape", "parts"}));
  ManifestTensor tensor;
  ASSIGN_OR_RETURN(tensor.info.name, ToText(value["name"], where + ".name"));
  ASSIGN_OR_RETURN(const std::string dtype_name, ToText(value["dtype"], where + ".dtype"));
  const std::optional<DType> dtype = DTypeFromName(dtype_name);
  if (!dtype.has_value()) return Invalid(where + ".dtype", "not a dtype");
  tensor.info.dtype = *dtype;
  RETURN_IF_ERROR(CheckArray(value["shape"], where + ".shape"));
  for (const Json& size : value["shape"]) {
    ASSIGN_OR_RETURN(tensor.info.shape.emplace_back(), ToCount(size, where + ".shape"));
  }
  RETURN_IF_ERROR(CheckArray(value["parts"], where + ".parts"));
  for (const Json& part : value["parts"]) {
    ASSIGN_OR_RETURN(
        tensor.parts.emplace_back(),
        ToPart(part, fmt::format("{}.parts[{}]", where, tensor.parts.size()), file_index));
  }
  return tensor;
}

absl::StatusOr<Manifest> ToManifest(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("not an object");
  // Format and version come first: another version may have other members.
  if (!json.contains("format") || json["format"] != kFormat) {
    return Invalid("format", fmt::format("not \"{}\"", kFormat));
  }
  if (!json.contains("version")) return Invalid("version", "missing");
  ASSIGN_OR_RETURN(const uint64_t version, ToUnsigned(json["version"], "version"));
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("format version {}, this program reads {}; use the program that wrote it",
                    version, kVersion));
  }
  RETURN_IF_ERROR(
      CheckMembers(json, "manifest",
                   {"xxh3_128", "format", "version", "counters", "config_digest", "state_digest",
                    "virtual_ranks", "seed", "facts", "files", "tensors"}));
  Manifest manifest;
  ASSIGN_OR_RETURN(manifest.info.counters, ToCounters(json["counters"]));
  ASSIGN_OR_RETURN(manifest.info.config_digest, ToText(json["config_digest"], "config_digest"));
  ASSIGN_OR_RETURN(manifest.state_digest, ToHash(json["state_digest"], "state_digest"));
  ASSIGN_OR_RETURN(manifest.info.virtual_ranks, ToCount(json["virtual_ranks"], "virtual_ranks"));
  ASSIGN_OR_RETURN(manifest.info.seed,
                   ToUnsigned(json["seed"], "seed", std::numeric_limits<uint64_t>::max()));
  ASSIGN_OR_RETURN(manifest.info.facts, ToFacts(json["facts"]));

  RETURN_IF_ERROR(CheckArray(json["files"], "files"));
  std::map<std::string, size_t> file_index;
  for (const Json& value : json["files"]) {
    const size_t i = manifest.files.size();
    ASSIGN_OR_RETURN(ManifestFile file, ToFile(value, fmt::format("files[{}]", i)));
    file_index.emplace(file.name, i);  // CheckManifest refuses doubles
    manifest.files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(CheckArray(json["tensors"], "tensors"));
  for (const Json& value : json["tensors"]) {
    ASSIGN_OR_RETURN(
        manifest.tensors.emplace_back(),
        ToTensor(value, fmt::format("tensors[{}]", manifest.tensors.size()), file_index));
  }
  RETURN_IF_ERROR(CheckManifest(manifest));
  return manifest;
}

// ---- Conditions on the content.

bool IsPlainFileName(std::string_view name) {
  constexpr size_t kMaxNameBytes = 255;
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  return !name.empty() && name.size() <= kMaxNameBytes && !name.starts_with('.') &&
         name != kManifestName && std::ranges::all_of(name, is_plain);
}

absl::Status CheckFiles(std::span<const ManifestFile> files) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string where = fmt::format("files[{}].name", i);
    const std::string quoted = Dump(files[i].name);
    if (!IsPlainFileName(files[i].name)) {
      return Invalid(where, fmt::format("{} is not a plain name of a data file", quoted));
    }
    if (!names.insert(files[i].name).second) {
      return Invalid(where, fmt::format("{} is given twice", quoted));
    }
    if (files[i].num_bytes > kMaxInt64) return Invalid(where, "too large");
  }
  return absl::OkStatus();
}

// The parts lie end to end over the tensor, on block borders, each inside its file.
absl::Status CheckParts(const ManifestTensor& tensor, uint64_t num_bytes,
                        std::span<const ManifestFile> files, const std::string& where) {
  uint64_t covered = 0;
  for (const TensorPart& part : tensor.parts) {
    if (part.begin != covered || part.end < part.begin || part.end > num_bytes ||
        (part.begin == part.end && num_bytes != 0)) {
      return Invalid(where, fmt::format("part [{}, {}) does not go on at byte {} of {}", part.begin,
                                        part.end, covered, num_bytes));
    }
    if (part.begin % kDigestBlockBytes != 0) {
      return Invalid(where,
                     fmt::format("part [{}, {}) does not begin on a block border of {} bytes",
                                 part.begin, part.end, kDigestBlockBytes));
    }
    const ManifestFile& file = files[part.file_index];
    if (part.file_begin > file.num_bytes ||
        part.end - part.begin > file.num_bytes - part.file_begin) {
      return Invalid(
          where, fmt::format("part [{}, {}) at byte {} of {} ends after its {} bytes", part.begin,
                             part.end, part.file_begin, file.name, file.num_bytes));
    }
    if (num_bytes != 0 && part.file_begin % ElementSize(tensor.info.dtype) != 0) {
      return Invalid(
          where, fmt::format("part [{}, {}) at byte {} of {} is not aligned for {}", part.begin,
                             part.end, part.file_begin, file.name, DTypeName(tensor.info.dtype)));
    }
    covered = part.end;
  }
  if (covered != num_bytes) {
    return Invalid(where, fmt::format("parts cover {} of {} bytes", covered, num_bytes));
  }
  if (num_bytes == 0 && tensor.parts.size() != 1) {
    return Invalid(where, fmt::format("an empty tensor with {} parts", tensor.parts.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckNoOverlap(const Manifest& manifest) {
  std::vector<std::tuple<size_t, uint64_t, uint64_t>> ranges;  // file, begin, end
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const TensorPart& part : tensor.parts) {
      if (part.begin == part.end) continue;
      ranges.emplace_back(part.file_index, part.file_begin,
                          part.file_begin + (part.end - part.begin));
    }
  }
  std::ranges::sort(ranges);
  for (size_t i = 1; i < ranges.size(); ++i) {
    const auto& [file, begin, end] = ranges[i];
    const auto& [file_before, begin_before, end_before] = ranges[i - 1];
    if (file == file_before && begin < end_before) {
      return Invalid("tensors", fmt::format("two parts share bytes [{}, {}) of {}", begin,
                                            std::min(end, end_before), manifest.files[file].name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseJson(std::string_view text) {
  // The library keeps the last of several equal names; here they are an error.
  std::vector<std::set<std::string>> names_at_depth;
  std::string problem;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) problem = fmt::format("nested deeper than {}", kMaxDepth);
    if (!problem.empty()) return false;
    if (event == Json::parse_event_t::object_start) names_at_depth.emplace_back();
    if (event == Json::parse_event_t::object_end) names_at_depth.pop_back();
    if (event == Json::parse_event_t::key &&
        !names_at_depth.back().insert(value.get<std::string>()).second) {
      problem = fmt::format("member {} is given twice", Dump(value));
    }
    return true;
  };
  try {
    Json json = Json::parse(text, watch);
    if (!problem.empty()) return absl::InvalidArgumentError(problem);
    return json;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("not valid JSON: {}", error.what()));
  }
}

std::string JoinLines(const std::vector<std::string>& lines) {
  return lines.empty() ? "[]" : fmt::format("[\n{}\n]", fmt::join(lines, ",\n"));
}

}  // namespace

bool IsTensorKey(std::string_view key) {
  return !key.empty() && key != "__metadata__" &&
         std::ranges::all_of(key, [](char c) { return c > ' ' && c <= '~' && c != '#'; });
}

absl::Status CheckManifest(const Manifest& manifest) {
  const CheckpointCounters& counters = manifest.info.counters;
  if (std::min({counters.iteration, counters.updates, counters.ema_updates, counters.epoch}) < 0) {
    return Invalid("counters", "must not be negative");
  }
  if (manifest.info.virtual_ranks < 1) return Invalid("virtual_ranks", "must be positive");
  RETURN_IF_ERROR(CheckFiles(manifest.files));
  std::set<std::string_view> names;
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    const ManifestTensor& tensor = manifest.tensors[i];
    const std::string where = fmt::format("tensors[{}] {}", i, Dump(tensor.info.name));
    if (!IsTensorKey(tensor.info.name)) {
      return Invalid(where, "names are printable ASCII without '#'");
    }
    if (!names.insert(tensor.info.name).second) return Invalid(where, "given twice");
    const std::optional<size_t> num_bytes = ByteSize(tensor.info.dtype, tensor.info.shape);
    if (!num_bytes.has_value()) return Invalid(where, "shape does not fit in 2^63 bytes");
    RETURN_IF_ERROR(CheckParts(tensor, *num_bytes, manifest.files, where));
  }
  return CheckNoOverlap(manifest);
}

std::string FormatManifest(const Manifest& manifest) {
  const auto& [info, state_digest, files, tensors] = manifest;
  std::vector<std::string> file_lines;
  for (const ManifestFile& file : files) {
    file_lines.push_back(
        Dump({{"name", file.name}, {"bytes", file.num_bytes}, {"xxh3_128", ToHex(file.hash)}}));
  }
  std::vector<std::string> tensor_lines;
  for (const ManifestTensor& tensor : tensors) {
    Json parts = Json::array();
    for (const TensorPart& part : tensor.parts) {
      parts.push_back({{"file", files[part.file_index].name},
                       {"file_begin", part.file_begin},
                       {"begin", part.begin},
                       {"end", part.end}});
    }
    tensor_lines.push_back(Dump({{"name", tensor.info.name},
                                 {"dtype", DTypeName(tensor.info.dtype)},
                                 {"shape", tensor.info.shape},
                                 {"parts", std::move(parts)}}));
  }
  const Json counters = {{"iteration", info.counters.iteration},
                         {"updates", info.counters.updates},
                         {"ema_updates", info.counters.ema_updates},
                         {"epoch", info.counters.epoch}};
  std::string rest = "\"";
  const auto add = [&](std::string_view name, std::string_view value) {
    rest += fmt::format(",\n\"{}\":{}", name, value);
  };
  add("format", Dump(kFormat));
  add("version", Dump(kVersion));
  add("counters", Dump(counters));
  add("config_digest", Dump(info.config_digest));
  add("state_digest", Dump(ToHex(state_digest)));
  add("virtual_ranks", Dump(info.virtual_ranks));
  add("seed", Dump(info.seed));
  add("facts", Dump(Json(info.facts)));
  add("files", JoinLines(file_lines));
  add("tensors", JoinLines(tensor_lines));
  rest += "}\n";
  return fmt::format("{}{}{}", kPrefix, ToHex(HashBytes(std::as_bytes(std::span(rest)))), rest);
}

absl::StatusOr<Manifest> ParseManifest(std::string_view text, std::string_view path) {
  if (!text.starts_with(kPrefix) || text.size() < kPrefix.size() + kHexDigits) {
    return Invalid(path, fmt::format("does not begin with its own checksum, {}", kPrefix));
  }
  const std::string_view checksum = text.substr(kPrefix.size(), kHexDigits);
  const std::string_view rest = text.substr(kPrefix.size() + kHexDigits);
  const std::string computed = ToHex(HashBytes(std::as_bytes(std::span(rest))));
  if (checksum != computed) {
    return Invalid(path, fmt::format("content has XXH3-128 {}, its first member says {}", computed,
                                     Dump(checksum)));
  }
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Prefixed(path, json.status());
  absl::StatusOr<Manifest> manifest = ToManifest(*json);
  if (!manifest.ok()) return Prefixed(path, manifest.status());
  return manifest;
}

}  // namespace albef
