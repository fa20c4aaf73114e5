#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

#include "common/status_macros.h"
#include "formats/utf8.h"
#include "formats/zip.h"
#include "formats/zip_format.h"

namespace albef {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint16_t kVersion = 20;
constexpr uint16_t kVersionZip64 = 45;
constexpr uint16_t kMidnight = 0;
constexpr uint16_t kFirstOf1980 = 0x0021;  // the same bytes whenever it is written

uint32_t Small(uint64_t value, bool zip64) {
  return zip64 ? zip::kInZip64<uint32_t> : static_cast<uint32_t>(value);
}

// What local and central headers have in common, from the version on.
void AppendDescription(std::string& bytes, bool zip64, uint32_t crc, uint64_t size) {
  zip::Append(bytes, zip64 ? kVersionZip64 : kVersion);
  zip::Append(bytes, zip::kFlagUtf8);
  zip::Append(bytes, zip::kMethodStored);
  zip::Append(bytes, kMidnight);
  zip::Append(bytes, kFirstOf1980);
  zip::Append(bytes, crc);
  zip::Append(bytes, Small(size, zip64));
  zip::Append(bytes, Small(size, zip64));
}

// The local header with padding so that the data is aligned.
std::string LocalHeader(std::string_view name, uint64_t offset, bool zip64, uint32_t crc,
                        uint64_t size) {
  std::string extra;
  if (zip64) {
    zip::Append(extra, zip::kExtraZip64);
    zip::Append(extra, uint16_t{2 * sizeof(uint64_t)});
    zip::Append(extra, size);
    zip::Append(extra, size);
  }
  constexpr uint64_t kFieldHeader = 4;
  const uint64_t end = offset + zip::kLocalBytes + name.size() + extra.size() + kFieldHeader;
  const auto padding = static_cast<uint16_t>((kAlignment - end % kAlignment) % kAlignment);
  zip::Append(extra, zip::kExtraPadding);
  zip::Append(extra, padding);
  extra.append(padding, '\0');

  std::string header;
  zip::Append(header, zip::kLocalSignature);
  AppendDescription(header, zip64, crc, size);
  zip::Append(header, static_cast<uint16_t>(name.size()));
  zip::Append(header, static_cast<uint16_t>(extra.size()));
  return header.append(name).append(extra);
}

std::string CentralHeader(std::string_view name, uint64_t offset, bool zip64, uint32_t crc,
                          uint64_t size) {
  std::string extra;
  if (zip64) {
    zip::Append(extra, zip::kExtraZip64);
    zip::Append(extra, uint16_t{3 * sizeof(uint64_t)});
    for (const uint64_t value : {size, size, offset}) zip::Append(extra, value);
  }
  std::string header;
  zip::Append(header, zip::kCentralSignature);
  zip::Append(header, zip64 ? kVersionZip64 : kVersion);  // made by
  AppendDescription(header, zip64, crc, size);
  zip::Append(header, static_cast<uint16_t>(name.size()));
  zip::Append(header, static_cast<uint16_t>(extra.size()));
  // Comment, disk and both attributes.
  header.append(2 + 2 + 2 + 4, '\0');
  zip::Append(header, Small(offset, zip64));
  return header.append(name).append(extra);
}

}  // namespace

absl::StatusOr<ZipWriter> ZipWriter::Create(const std::filesystem::path& path, Options options) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  return ZipWriter(path, std::move(file), options);
}

absl::Status ZipWriter::Write(std::string_view bytes) {
  offset_ += bytes.size();
  return file_.Write(bytes);
}

absl::Status ZipWriter::Add(std::string_view entry, std::span<const std::byte> bytes) {
  if (entry.empty() || entry.size() > 0xffff || !names_.emplace(entry).second) {
    return absl::InvalidArgumentError(
        fmt::format("{}: the name of zip entry {} is empty, too long or there twice",
                    path_.string(), Quoted(entry)));
  }
  const auto crc = static_cast<uint32_t>(
      ::crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
  const bool zip64 = std::max<uint64_t>(bytes.size(), offset_) >= options_.zip64_threshold;
  directory_ += CentralHeader(entry, offset_, zip64, crc, bytes.size());
  ++num_entries_;
  RETURN_IF_ERROR(Write(LocalHeader(entry, offset_, zip64, crc, bytes.size())));
  return Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

absl::Status ZipWriter::Commit() {
  const uint64_t begin = offset_;
  const uint64_t end = begin + directory_.size();
  const bool zip64 = end >= options_.zip64_threshold || num_entries_ >= zip::kInZip64<uint16_t>;
  RETURN_IF_ERROR(Write(directory_));
  std::string tail;
  if (zip64) {
    zip::Append(tail, zip::kEnd64Signature);
    zip::Append(tail, uint64_t{zip::kEnd64Bytes - 12});  // what follows
    zip::Append(tail, kVersionZip64);
    zip::Append(tail, kVersionZip64);
    zip::Append(tail, uint64_t{0});  // two disk numbers
    zip::Append(tail, num_entries_);
    zip::Append(tail, num_entries_);
    zip::Append(tail, uint64_t{directory_.size()});
    zip::Append(tail, begin);
    zip::Append(tail, zip::kEnd64LocatorSignature);
    zip::Append(tail, uint32_t{0});
    zip::Append(tail, end);
    zip::Append(tail, uint32_t{1});  // disks
  }
  const auto entries = zip64 ? zip::kInZip64<uint16_t> : static_cast<uint16_t>(num_entries_);
  zip::Append(tail, zip::kEndSignature);
  zip::Append(tail, uint32_t{0});  // two disk numbers
  zip::Append(tail, entries);
  zip::Append(tail, entries);
  zip::Append(tail, Small(directory_.size(), zip64));
  zip::Append(tail, Small(begin, zip64));
  zip::Append(tail, uint16_t{0});  // comment
  RETURN_IF_ERROR(Write(tail));
  return file_.Commit();
}

}  // namespace albef
