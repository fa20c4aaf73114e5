#include "formats/safetensors.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "formats/utf8.h"

namespace albef {
namespace {

static_assert(std::endian::native == std::endian::little, "views are handed out without swapping");

constexpr size_t kPrefixBytes = 8;
constexpr size_t kAlignment = 8;
// The limit of the reference implementation; the full-size model needs 0.1 MB.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxJsonDepth = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

// A tensor of the header with its place in the data.
struct Entry {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  uint64_t begin;
  uint64_t end;
};

struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

absl::StatusOr<std::vector<int64_t>> ParseShape(simdjson::dom::element value) {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("shape is not an array");
  }
  std::vector<int64_t> shape;
  for (const simdjson::dom::element element : array) {
    int64_t size;
    if (element.get(size) != simdjson::SUCCESS || size < 0) {
      return absl::InvalidArgumentError(
          fmt::format("shape[{}] is not an integer in [0, 2^63)", shape.size()));
    }
    shape.push_back(size);
  }
  return shape;
}

absl::Status ParseOffsets(simdjson::dom::element value, Entry& entry) {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS || array.size() != 2 ||
      array.at(0).get(entry.begin) != simdjson::SUCCESS ||
      array.at(1).get(entry.end) != simdjson::SUCCESS || entry.begin > entry.end) {
    return absl::InvalidArgumentError("data_offsets is not a pair of integers 0 <= begin <= end");
  }
  return absl::OkStatus();
}

absl::StatusOr<Entry> ParseEntry(std::string_view name, simdjson::dom::element value) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("its description is not an object");
  }
  Entry entry{.name = std::string(name), .dtype = DType::kF32, .shape = {}, .begin = 0, .end = 0};
  // Walked rather than looked up, so that a field given twice is seen.
  int num_dtype = 0, num_shape = 0, num_offsets = 0;
  for (const simdjson::dom::key_value_pair field : object) {
    if (field.key == "dtype") {
      ++num_dtype;
      std::string_view dtype_name;
      if (field.value.get(dtype_name) != simdjson::SUCCESS) {
        return absl::InvalidArgumentError("dtype is not a string");
      }
      const std::optional<DType> dtype = DTypeFromName(dtype_name);
      if (!dtype.has_value()) {
        return absl::InvalidArgumentError(fmt::format("dtype {} is not supported", dtype_name));
      }
      entry.dtype = *dtype;
    } else if (field.key == "shape") {
      ++num_shape;
      ASSIGN_OR_RETURN(entry.shape, ParseShape(field.value));
    } else if (field.key == "data_offsets") {
      ++num_offsets;
      RETURN_IF_ERROR(ParseOffsets(field.value, entry));
    } else {
      return absl::InvalidArgumentError(fmt::format("unknown field {}", field.key));
    }
  }
  if (num_dtype != 1 || num_shape != 1 || num_offsets != 1) {
    return absl::InvalidArgumentError("dtype, shape and data_offsets must each be given once");
  }
  const std::optional<size_t> bytes = ByteSize(entry.dtype, entry.shape);
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(fmt::format("shape [{}] of {} does not fit in 2^63 bytes",
                                                  fmt::join(entry.shape, ", "),
                                                  DTypeName(entry.dtype)));
  }
  if (*bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(
        fmt::format("shape [{}] of {} needs {} bytes, data_offsets [{}, {}] hold {}",
                    fmt::join(entry.shape, ", "), DTypeName(entry.dtype), *bytes, entry.begin,
                    entry.end, entry.end - entry.begin));
  }
  return entry;
}

absl::Status ParseMetadata(simdjson::dom::element value, Header& header) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("not an object");
  }
  for (const simdjson::dom::key_value_pair field : object) {
    std::string_view text;
    if (field.value.get(text) != simdjson::SUCCESS) {
      return absl::InvalidArgumentError(fmt::format("{} is not a string", field.key));
    }
    if (!header.metadata.emplace(field.key, text).second) {
      return absl::InvalidArgumentError(fmt::format("{} is given twice", field.key));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Header> ParseHeader(std::string_view json) {
  if (!json.starts_with('{')) return absl::InvalidArgumentError("header does not begin with {");
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (const auto error = parser.allocate(json.size(), kMaxJsonDepth); error != simdjson::SUCCESS) {
    return absl::ResourceExhaustedError("no memory to parse the header");
  }
  const simdjson::padded_string padded(json);
  if (const auto error = parser.parse(padded).get(object); error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        fmt::format("header is not valid JSON: {}", simdjson::error_message(error)));
  }
  Header header;
  bool has_metadata = false;
  for (const simdjson::dom::key_value_pair field : object) {
    if (field.key == kMetadataKey) {
      if (std::exchange(has_metadata, true)) {
        return absl::InvalidArgumentError("__metadata__ is given twice");
      }
      if (absl::Status status = ParseMetadata(field.value, header); !status.ok()) {
        return absl::InvalidArgumentError(
            fmt::format("__metadata__: {}",
                        std::string_view(status.message().data(), status.message().size())));
      }
      continue;
    }
    absl::StatusOr<Entry> entry = ParseEntry(field.key, field.value);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("tensor {}: {}", field.key, std::string(entry.status().message())));
    }
    header.entries.push_back(*std::move(entry));
  }
  return header;
}

// Every byte of the data belongs to exactly one tensor, and every tensor is aligned.
absl::Status CheckLayout(std::span<const Entry> sorted, uint64_t data_begin, uint64_t data_bytes) {
  uint64_t place = 0;
  for (const Entry& entry : sorted) {
    if (entry.end > data_bytes) {
      return absl::InvalidArgumentError(
          fmt::format("tensor {} ends at byte {} of the data, but the file holds {}: it is "
                      "truncated or damaged; copy it again",
                      entry.name, entry.end, data_bytes));
    }
    if (entry.begin != place) {
      return absl::InvalidArgumentError(fmt::format(
          "tensor {} begins at byte {} of the data and {} the place {} where the one before it "
          "ends",
          entry.name, entry.begin, entry.begin < place ? "overlaps" : "leaves a gap after", place));
    }
    if (entry.begin != entry.end && (data_begin + entry.begin) % ElementSize(entry.dtype) != 0) {
      return absl::InvalidArgumentError(fmt::format(
          "tensor {} begins at byte {} of the file, which is not aligned for {}; write the file "
          "again with a current safetensors library",
          entry.name, data_begin + entry.begin, DTypeName(entry.dtype)));
    }
    place = entry.end;
  }
  if (place != data_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes after the last tensor belong to none", data_bytes - place));
  }
  return absl::OkStatus();
}

absl::Status Named(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), fmt::format("{}: {}", name, std::string(status.message())));
}

std::string JsonString(std::string_view text) { return nlohmann::json(text).dump(); }

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(std::span<const std::byte> bytes,
                                                       std::string name) {
  uint64_t header_bytes = 0;
  if (bytes.size() < kPrefixBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} bytes are too few for a safetensors file", name, bytes.size()));
  }
  std::memcpy(&header_bytes, bytes.data(), kPrefixBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kPrefixBytes) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: header of {} bytes in a file of {} (at most {} are accepted): truncated, or not a "
        "safetensors file",
        name, header_bytes, bytes.size(), kMaxHeaderBytes));
  }
  const auto json = bytes.subspan(kPrefixBytes, header_bytes);
  absl::StatusOr<Header> header =
      ParseHeader({reinterpret_cast<const char*>(json.data()), json.size()});
  if (!header.ok()) return Named(name, header.status());

  std::vector<Entry>& entries = header->entries;
  std::ranges::stable_sort(entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  const std::span<const std::byte> data = bytes.subspan(kPrefixBytes + header_bytes);
  if (absl::Status status = CheckLayout(entries, kPrefixBytes + header_bytes, data.size());
      !status.ok()) {
    return Named(name, status);
  }

  SafetensorsFile result;
  result.metadata_ = std::move(header->metadata);
  for (Entry& entry : entries) {
    if (!result.index_.emplace(entry.name, result.tensors_.size()).second) {
      return absl::InvalidArgumentError(
          fmt::format("{}: tensor {} is given twice", name, entry.name));
    }
    result.tensors_.push_back({std::move(entry.name),
                               {.dtype = entry.dtype,
                                .shape = std::move(entry.shape),
                                .bytes = data.subspan(entry.begin, entry.end - entry.begin)}});
  }
  result.name_ = std::move(name);
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(SafetensorsFile result, Parse(file.bytes(), path.string()));
  result.file_ = std::move(file);
  return result;
}

absl::StatusOr<TensorView> SafetensorsFile::Find(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    return absl::NotFoundError(fmt::format("{}: no tensor named {}", name_, name));
  }
  return tensors_[found->second].tensor;
}

absl::StatusOr<std::string> SafetensorsHeader(std::span<const NamedTensor> tensors,
                                              const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += fmt::format("{}:{{", JsonString(kMetadataKey));
    const char* separator = "";
    for (const auto& [key, value] : metadata) {
      if (!IsUtf8(key) || !IsUtf8(value)) {
        return absl::InvalidArgumentError("safetensors metadata is not valid UTF-8");
      }
      json +=
          fmt::format("{}{}:{}", std::exchange(separator, ","), JsonString(key), JsonString(value));
    }
    json += "}";
  }
  std::map<std::string_view, bool> seen;
  uint64_t place = 0;
  for (const auto& [name, tensor] : tensors) {
    if (!IsUtf8(name) || name == kMetadataKey || !seen.emplace(name, true).second) {
      return absl::InvalidArgumentError(fmt::format(
          "cannot name a safetensors tensor {}: names are unique, valid UTF-8 and not {}",
          Quoted(name), kMetadataKey));
    }
    const std::optional<size_t> bytes = ByteSize(tensor.dtype, tensor.shape);
    if (bytes != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          fmt::format("tensor {}: shape [{}] of {} does not describe its {} bytes", name,
                      fmt::join(tensor.shape, ", "), DTypeName(tensor.dtype), tensor.bytes.size()));
    }
    if (*bytes != 0 && place % ElementSize(tensor.dtype) != 0) {
      return absl::InvalidArgumentError(fmt::format(
          "tensor {} of {} would begin unaligned at byte {} of the data; order the tensors by "
          "falling element size",
          name, DTypeName(tensor.dtype), place));
    }
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        json.size() > 1 ? "," : "", JsonString(name), DTypeName(tensor.dtype),
                        fmt::join(tensor.shape, ","), place, place + *bytes);
    place += *bytes;
  }
  json += "}";
  json.resize((json.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (json.size() > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(fmt::format(
        "safetensors header of {} bytes; readers accept {}", json.size(), kMaxHeaderBytes));
  }
  const uint64_t header_bytes = json.size();
  std::string header(kPrefixBytes, '\0');
  std::memcpy(header.data(), &header_bytes, kPrefixBytes);
  return header + json;
}

absl::Status WriteSafetensors(const std::filesystem::path& path,
                              std::span<const NamedTensor> tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::vector<NamedTensor> sorted(tensors.begin(), tensors.end());
  std::ranges::stable_sort(sorted, std::greater<>(),
                           [](const NamedTensor& t) { return ElementSize(t.tensor.dtype); });
  absl::StatusOr<std::string> header = SafetensorsHeader(sorted, metadata);
  if (!header.ok()) return Named(path.string(), header.status());
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file.Write(*header));
  for (const NamedTensor& tensor : sorted) RETURN_IF_ERROR(file.Write(tensor.tensor.bytes));
  return file.Commit();
}

}  // namespace albef
