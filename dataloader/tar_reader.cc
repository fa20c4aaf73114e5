#include "dataloader/tar_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

constexpr uint64_t kBlockBytes = 512;
constexpr uint64_t kWindowBytes = TarReader::kMaxTextBytes;

// The fields of a header block.
std::string_view Name(std::string_view block) { return block.substr(0, 100); }
std::string_view Size(std::string_view block) { return block.substr(124, 12); }
std::string_view Checksum(std::string_view block) { return block.substr(148, 8); }
char Type(std::string_view block) { return block[156]; }
std::string_view Magic(std::string_view block) { return block.substr(257, 6); }
std::string_view Prefix(std::string_view block) { return block.substr(345, 155); }
bool HasSparseExtension(std::string_view block) { return block[482] != 0; }
bool HasFurtherExtension(std::string_view block) { return block[504] != 0; }

std::string_view UntilZero(std::string_view text) { return text.substr(0, text.find('\0')); }

bool IsZero(std::string_view block) { return block.find_first_not_of('\0') == block.npos; }

// Octal digits between blanks or zeros; absent for anything else.
std::optional<uint64_t> ParseOctal(std::string_view field) {
  field.remove_prefix(std::min(field.find_first_not_of(' '), field.size()));
  uint64_t value = 0;
  size_t i = 0;
  for (; i < field.size() && field[i] >= '0' && field[i] <= '7'; ++i) {
    value = value << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  const bool ends = field.substr(i).find_first_not_of(std::string_view(" \0", 2)) == field.npos;
  return ends ? std::optional(value) : std::nullopt;
}

// Octal, or with the top bit set a big-endian number.
std::optional<uint64_t> ParseSize(std::string_view field) {
  if ((field[0] & 0x80) == 0) return ParseOctal(field);
  if (field.substr(1, 4).find_first_not_of('\0') != field.npos || field[0] != '\x80') {
    return std::nullopt;
  }
  uint64_t value = 0;
  for (const char c : field.substr(4)) value = value << 8 | static_cast<uint8_t>(c);
  return value < uint64_t{1} << 63 ? std::optional(value) : std::nullopt;
}

std::optional<uint64_t> ParseDecimal(std::string_view text) {
  if (text.empty() || text.size() > 18) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

// Some old programs summed signed bytes.
bool ChecksumHolds(std::string_view block) {
  const std::optional<uint64_t> stored = ParseOctal(Checksum(block));
  if (!stored) return false;
  int64_t unsigned_sum = 0, signed_sum = 0;
  for (size_t i = 0; i < kBlockBytes; ++i) {
    const char c = i >= 148 && i < 156 ? ' ' : block[i];
    unsigned_sum += static_cast<uint8_t>(c);
    signed_sum += static_cast<signed char>(c);
  }
  const auto sum = static_cast<int64_t>(*stored);
  return sum == unsigned_sum || sum == signed_sum;
}

uint64_t RoundUp(uint64_t size) { return (size + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

}  // namespace

// What headers before a member say about it.
struct TarReader::Extension {
  std::optional<std::string> gnu_name;
  std::optional<std::string> pax_path;
  std::optional<uint64_t> pax_size;
  bool is_sparse = false;
};

TarReader::TarReader(const FileDescriptor& file, std::filesystem::path path, uint64_t size)
    : file_(file), path_(std::move(path)), size_(size) {}

absl::Status TarReader::Damaged(uint64_t offset, std::string_view what) const {
  return absl::InvalidArgumentError(
      fmt::format("{}: {} at byte {}; leave the shard out or write it anew (only a plain .tar has "
                  "members at fixed places)",
                  path_.string(), what, offset));
}

absl::StatusOr<std::string_view> TarReader::View(uint64_t offset, uint64_t count) {
  count = std::min(count, size_ - std::min(offset, size_));
  if (offset < window_begin_ || offset + count > window_begin_ + window_.size()) {
    const uint64_t bytes = std::min(kWindowBytes, size_ - std::min(offset, size_));
    RETURN_IF_ERROR(ReadRange(file_, offset, bytes, path_, window_));
    window_begin_ = offset;
  }
  return std::string_view(window_).substr(offset - window_begin_, count);
}

absl::StatusOr<std::string_view> TarReader::Read(const Member& member) {
  if (member.size > kMaxTextBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} has {} bytes, more than the {} allowed",
                                                  path_.string(), member.name, member.size,
                                                  kMaxTextBytes));
  }
  return View(member.offset, member.size);
}

// Records "LENGTH KEY=VALUE\n", where LENGTH counts the whole record.
absl::Status TarReader::ReadPax(std::string_view records, uint64_t offset,
                                Extension& extension) const {
  while (!records.empty()) {
    const size_t blank = records.find(' ');
    const std::optional<uint64_t> length =
        blank == records.npos ? std::nullopt : ParseDecimal(records.substr(0, blank));
    if (!length || *length < blank + 2 || *length > records.size() ||
        records[*length - 1] != '\n') {
      return Damaged(offset, "malformed pax header");
    }
    const std::string_view record = records.substr(blank + 1, *length - blank - 2);
    records.remove_prefix(*length);
    const size_t equals = record.find('=');
    if (equals == record.npos) return Damaged(offset, "malformed pax header");
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path") {
      extension.pax_path = value;
    } else if (key == "size") {
      extension.pax_size = ParseDecimal(value);
      if (!extension.pax_size) return Damaged(offset, "malformed size in a pax header");
    } else if (key.starts_with("GNU.sparse.")) {
      extension.is_sparse = true;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> TarReader::Next(Member& member) {
  Extension extension;
  while (true) {
    const uint64_t header = next_header_;
    ASSIGN_OR_RETURN(const std::string_view block, View(header, kBlockBytes));
    if (block.size() == kBlockBytes && IsZero(block)) return false;
    if (block.size() < kBlockBytes && (header > 0 || block.empty())) {
      is_cut_short_ = true;
      return false;
    }
    if (block.size() < kBlockBytes || !ChecksumHolds(block)) {
      return Damaged(header, header == 0 ? "no tar archive" : "damaged header");
    }
    const std::optional<uint64_t> stored_size = ParseSize(Size(block));
    if (!stored_size) return Damaged(header, "malformed size in the header");
    const char type = Type(block);
    const bool is_extension = type == 'L' || type == 'K' || type == 'x' || type == 'g';
    uint64_t size = is_extension ? *stored_size : extension.pax_size.value_or(*stored_size);
    // Of links, folders and devices no bytes follow, whatever their size says.
    const bool has_bytes = type < '1' || type > '6';
    if (!has_bytes) size = 0;
    std::string name(UntilZero(Name(block)));
    if (Magic(block) == std::string_view("ustar\0", 6) && Prefix(block)[0] != '\0') {
      name = fmt::format("{}/{}", UntilZero(Prefix(block)), name);
    }
    uint64_t begin = header + kBlockBytes;
    bool extended = type == 'S' && HasSparseExtension(block);
    while (extended) {
      ASSIGN_OR_RETURN(const std::string_view map, View(begin, kBlockBytes));
      extended = map.size() == kBlockBytes && HasFurtherExtension(map);
      begin += kBlockBytes;
    }
    if (begin > size_ || size > size_ - begin) {
      is_cut_short_ = true;
      return false;
    }
    next_header_ = begin + RoundUp(size);

    if (is_extension) {
      if (size > kMaxTextBytes) return Damaged(header, "an extended header of more than 1 MiB");
      ASSIGN_OR_RETURN(const std::string_view content, View(begin, size));
      if (type == 'L') extension.gnu_name = UntilZero(content);
      if (type == 'x') RETURN_IF_ERROR(ReadPax(content, header, extension));
      continue;
    }
    if (extension.gnu_name) name = *std::move(extension.gnu_name);
    if (extension.pax_path) name = *std::move(extension.pax_path);
    member.is_file = (type == '0' || type == '\0' || type == '7') && !extension.is_sparse &&
                     !name.empty() && !name.ends_with('/');
    member.name = std::move(name);
    member.offset = begin;
    member.size = size;
    return true;
  }
}

}  // namespace albef
