#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "common/status_macros.h"
#include "formats/utf8.h"
#include "formats/zip.h"
#include "formats/zip_format.h"

namespace albef {
namespace {

using Bytes = std::span<const std::byte>;

absl::Status Error(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

// Where the central directory is.
struct Directory {
  uint64_t begin = 0;
  uint64_t bytes = 0;
  uint64_t num_entries = 0;
};

// One entry of the central directory.
struct Record {
  std::string name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc = 0;
  uint64_t compressed = 0;
  uint64_t size = 0;
  uint64_t local_begin = 0;
};

std::string_view Text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Of several possible places the last is right: an earlier one is in a comment's shadow.
std::optional<size_t> FindEnd(Bytes file) {
  if (file.size() < zip::kEndBytes) return std::nullopt;
  const size_t last = file.size() - zip::kEndBytes;
  for (size_t back = 0; back <= std::min(last, zip::kMaxCommentBytes); ++back) {
    if (zip::Load<uint32_t>(file, last - back) == zip::kEndSignature &&
        zip::Load<uint16_t>(file, last - back + 20) == back) {
      return last - back;
    }
  }
  return std::nullopt;
}

absl::StatusOr<Directory> FindDirectory(Bytes file) {
  const std::optional<size_t> end = FindEnd(file);
  if (!end.has_value()) return Error("no end of a zip directory: the file is truncated");
  const uint16_t disk = zip::Load<uint16_t>(file, *end + 4);
  const uint16_t num_entries = zip::Load<uint16_t>(file, *end + 10);
  const uint32_t bytes = zip::Load<uint32_t>(file, *end + 12);
  const uint32_t begin = zip::Load<uint32_t>(file, *end + 16);
  Directory directory{.begin = begin, .bytes = bytes, .num_entries = num_entries};
  uint64_t limit = *end;

  const bool has_locator =
      *end >= zip::kEnd64LocatorBytes + zip::kEnd64Bytes &&
      zip::Load<uint32_t>(file, *end - zip::kEnd64LocatorBytes) == zip::kEnd64LocatorSignature;
  if (has_locator) {
    const uint64_t end64 = zip::Load<uint64_t>(file, *end - zip::kEnd64LocatorBytes + 8);
    limit = *end - zip::kEnd64LocatorBytes;
    if (end64 > limit - zip::kEnd64Bytes ||
        zip::Load<uint32_t>(file, end64) != zip::kEnd64Signature) {
      return Error("the ZIP64 end of the directory is not where its locator says");
    }
    limit = end64;
    directory = {.begin = zip::Load<uint64_t>(file, end64 + 48),
                 .bytes = zip::Load<uint64_t>(file, end64 + 40),
                 .num_entries = zip::Load<uint64_t>(file, end64 + 32)};
    if ((begin != zip::kInZip64<uint32_t> && begin != directory.begin) ||
        (bytes != zip::kInZip64<uint32_t> && bytes != directory.bytes) ||
        (num_entries != zip::kInZip64<uint16_t> && num_entries != directory.num_entries)) {
      return Error("the two ends of the directory contradict each other");
    }
  }
  if (disk != 0 && disk != zip::kInZip64<uint16_t>) return Error("a part of a split archive");
  if (directory.begin > limit || directory.bytes > limit - directory.begin) {
    return Error(fmt::format("a directory of {} bytes at {} is not within the {} before its end",
                             directory.bytes, directory.begin, limit));
  }
  if (directory.num_entries > directory.bytes / zip::kCentralBytes) {
    return Error(fmt::format("{} entries do not fit in a directory of {} bytes",
                             directory.num_entries, directory.bytes));
  }
  return directory;
}

// Fills in what the ZIP64 extra field holds of a record.
absl::Status ReadZip64(Bytes extra, Record& record) {
  const bool wanted = record.size == zip::kInZip64<uint32_t> ||
                      record.compressed == zip::kInZip64<uint32_t> ||
                      record.local_begin == zip::kInZip64<uint32_t>;
  while (wanted && extra.size() >= 4) {
    const auto id = zip::Load<uint16_t>(extra, 0);
    const auto bytes = zip::Load<uint16_t>(extra, 2);
    if (bytes > extra.size() - 4) break;
    Bytes field = extra.subspan(4, bytes);
    extra = extra.subspan(4 + size_t{bytes});
    if (id != zip::kExtraZip64) continue;
    for (uint64_t* value : {&record.size, &record.compressed, &record.local_begin}) {
      if (*value != zip::kInZip64<uint32_t>) continue;
      if (field.size() < sizeof(uint64_t)) return Error("its ZIP64 field is too short");
      *value = zip::Load<uint64_t>(field, 0);
      field = field.subspan(sizeof(uint64_t));
    }
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Record>> ReadDirectory(Bytes file, const Directory& directory) {
  Bytes rest = file.subspan(directory.begin, directory.bytes);
  std::vector<Record> records;
  for (uint64_t i = 0; i < directory.num_entries; ++i) {
    if (rest.size() < zip::kCentralBytes ||
        zip::Load<uint32_t>(rest, 0) != zip::kCentralSignature) {
      return Error(fmt::format("directory entry {} of {} is damaged", i, directory.num_entries));
    }
    const size_t name_bytes = zip::Load<uint16_t>(rest, 28);
    const size_t extra_bytes = zip::Load<uint16_t>(rest, 30);
    const size_t total =
        zip::kCentralBytes + name_bytes + extra_bytes + zip::Load<uint16_t>(rest, 32);
    if (total > rest.size()) return Error(fmt::format("directory entry {} is truncated", i));
    Record record{.name = std::string(Text(rest.subspan(zip::kCentralBytes, name_bytes))),
                  .flags = zip::Load<uint16_t>(rest, 8),
                  .method = zip::Load<uint16_t>(rest, 10),
                  .crc = zip::Load<uint32_t>(rest, 16),
                  .compressed = zip::Load<uint32_t>(rest, 20),
                  .size = zip::Load<uint32_t>(rest, 24),
                  .local_begin = zip::Load<uint32_t>(rest, 42)};
    const Bytes extra = rest.subspan(zip::kCentralBytes + name_bytes, extra_bytes);
    if (absl::Status status = ReadZip64(extra, record); !status.ok()) {
      return Error(fmt::format("entry {}: {}", Quoted(record.name), std::string(status.message())));
    }
    records.push_back(std::move(record));
    rest = rest.subspan(total);
  }
  if (!rest.empty()) return Error("bytes after the last directory entry");
  // Data and headers must lie before the directory.
  for (const Record& record : records) {
    if (record.local_begin > directory.begin ||
        zip::kLocalBytes > directory.begin - record.local_begin) {
      return Error(fmt::format("entry {} begins at {}, not before the directory at {}",
                               Quoted(record.name), record.local_begin, directory.begin));
    }
  }
  return records;
}

// The stored bytes of an entry, all before `limit`.
absl::StatusOr<Bytes> Locate(Bytes file, const Record& record, uint64_t limit) {
  const auto wrong = [&record](std::string_view what) {
    return Error(fmt::format("entry {}: {}", Quoted(record.name), what));
  };
  if ((record.flags & zip::kFlagEncrypted) != 0)
    return wrong("encrypted entries are not supported");
  if (record.method != zip::kMethodStored) {
    return wrong(
        fmt::format("compressed by method {}; only stored entries are supported, "
                    "as torch.save writes them",
                    record.method));
  }
  if (record.compressed != record.size) return wrong("stored, but its two sizes differ");
  const Bytes local = file.subspan(record.local_begin, limit - record.local_begin);
  if (local.size() < zip::kLocalBytes || zip::Load<uint32_t>(local, 0) != zip::kLocalSignature) {
    return wrong(fmt::format("no header at {} where the directory says", record.local_begin));
  }
  const size_t name_bytes = zip::Load<uint16_t>(local, 26);
  const size_t header_bytes = zip::kLocalBytes + name_bytes + zip::Load<uint16_t>(local, 28);
  if (header_bytes > local.size() || record.size > local.size() - header_bytes) {
    return wrong(
        fmt::format("its {} bytes reach into the next entry or the directory: entries "
                    "overlap, or the file is damaged",
                    record.size));
  }
  const auto local_crc = zip::Load<uint32_t>(local, 14);
  const auto local_size = zip::Load<uint32_t>(local, 22);
  const bool described_later = (zip::Load<uint16_t>(local, 6) & zip::kFlagDescriptor) != 0;
  if (Text(local.subspan(zip::kLocalBytes, name_bytes)) != record.name ||
      zip::Load<uint16_t>(local, 8) != record.method ||
      (!described_later && (local_crc != record.crc || (local_size != zip::kInZip64<uint32_t> &&
                                                        local_size != record.size)))) {
    return wrong("its header contradicts the directory");
  }
  return local.subspan(header_bytes, record.size);
}

}  // namespace

bool ZipReader::LooksLikeZip(Bytes bytes) {
  return bytes.size() >= sizeof(uint32_t) &&
         (zip::Load<uint32_t>(bytes, 0) == zip::kLocalSignature ||
          zip::Load<uint32_t>(bytes, 0) == zip::kEndSignature);
}

absl::StatusOr<ZipReader> ZipReader::Parse(Bytes bytes, std::string name) {
  const auto wrong = [&name](const absl::Status& status) {
    return Error(fmt::format("{}: {}", name, std::string(status.message())));
  };
  ZipReader reader(name);
  const absl::StatusOr<Directory> directory = FindDirectory(bytes);
  if (!directory.ok()) return wrong(directory.status());
  absl::StatusOr<std::vector<Record>> records = ReadDirectory(bytes, *directory);
  if (!records.ok()) return wrong(records.status());
  std::ranges::sort(*records, {}, &Record::local_begin);
  for (size_t i = 0; i < records->size(); ++i) {
    const Record& record = (*records)[i];
    const uint64_t limit =
        i + 1 < records->size() ? (*records)[i + 1].local_begin : directory->begin;
    absl::StatusOr<Bytes> data = Locate(bytes, record, limit);
    if (!data.ok()) return wrong(data.status());
    if (!reader.entries_.emplace(record.name, Entry{*data, record.crc}).second) {
      return wrong(Error(fmt::format("entry {} is there twice", Quoted(record.name))));
    }
  }
  return reader;
}

absl::StatusOr<Bytes> ZipReader::Read(std::string_view entry) const {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) {
    return absl::NotFoundError(fmt::format("{}: no entry {} in the archive", name_, Quoted(entry)));
  }
  const auto& [bytes, crc] = found->second;
  const auto actual = static_cast<uint32_t>(
      ::crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
  if (actual != crc) {
    return Error(
        fmt::format("{}: entry {} is damaged: CRC-32 is {:08x}, should be {:08x}; copy "
                    "the file again",
                    name_, Quoted(entry), actual, crc));
  }
  return bytes;
}

}  // namespace albef
