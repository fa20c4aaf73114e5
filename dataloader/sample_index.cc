#include "dataloader/sample_index.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are stored as they are");

constexpr std::string_view kMagic = "ALBEFIDX";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeadBytes = 12;
constexpr uint64_t kBlockSamples = 1024;
constexpr uint64_t kDirectoryEntryBytes = 16;

struct Trailer {
  FileIdentity indexed;
  uint64_t num_samples;
  uint64_t num_blocks;
  uint64_t directory_offset;
  uint64_t directory_hash;
  uint64_t hash;  // of all before it
  char magic[8];
};
static_assert(sizeof(Trailer) == 80 && std::is_trivially_copyable_v<Trailer>);

uint64_t TrailerHash(const Trailer& trailer) {
  return XXH3_64bits(&trailer, offsetof(Trailer, hash));
}

uint64_t Hash(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

template <typename T>
std::string_view AsBytes(const T* values, size_t count) {
  return {reinterpret_cast<const char*>(values), count * sizeof(T)};
}

template <typename T>
T Load(std::string_view bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

void AppendNumber(uint64_t value, std::string& bytes) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
}

void AppendText(std::string_view text, std::string& bytes) {
  AppendNumber(text.size(), bytes);
  bytes += text;
}

// Both take what they yield off `bytes`, and less than asked for where that ends.
uint64_t TakeNumber(std::string_view& bytes) {
  uint64_t value = 0;
  for (unsigned shift = 0; !bytes.empty() && shift < 64; shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) break;
  }
  return value;
}

std::string_view TakeText(std::string_view& bytes) {
  const uint64_t size = std::min<uint64_t>(TakeNumber(bytes), bytes.size());
  const std::string_view text = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return text;
}

}  // namespace

absl::StatusOr<SampleIndexWriter> SampleIndexWriter::Create(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  SampleIndexWriter writer(std::move(file));
  RETURN_IF_ERROR(writer.Write(kMagic));
  RETURN_IF_ERROR(writer.Write(AsBytes(&kVersion, 1)));
  return writer;
}

absl::Status SampleIndexWriter::Write(std::string_view bytes) {
  written_ += bytes.size();
  return file_.Write(bytes);
}

absl::Status SampleIndexWriter::Add(std::string_view image, std::optional<Place> place,
                                    std::span<const std::string> captions) {
  record_begin_.push_back(static_cast<uint32_t>(records_.size()));
  AppendText(image, records_);
  AppendNumber(place ? place->offset + 1 : 0, records_);
  if (place) AppendNumber(place->size, records_);
  for (const std::string& caption : captions) AppendText(caption, records_);
  if (records_.size() > std::numeric_limits<uint32_t>::max() - kBlockSamples * sizeof(uint32_t)) {
    return absl::InvalidArgumentError(fmt::format(
        "sample {} and the {} before it have more than 4 GiB of text; is this a caption?",
        num_samples_, record_begin_.size() - 1));
  }
  ++num_samples_;
  return record_begin_.size() == kBlockSamples ? EndBlock() : absl::OkStatus();
}

absl::Status SampleIndexWriter::EndBlock() {
  if (record_begin_.empty()) return absl::OkStatus();
  const auto table_bytes = static_cast<uint32_t>(record_begin_.size() * sizeof(uint32_t));
  for (uint32_t& begin : record_begin_) begin += table_bytes;
  block_ = AsBytes(record_begin_.data(), record_begin_.size());
  block_ += records_;
  directory_.push_back({written_, Hash(block_)});
  record_begin_.clear();
  records_.clear();
  return Write(block_);
}

absl::Status SampleIndexWriter::Finish(const FileIdentity& indexed) {
  RETURN_IF_ERROR(EndBlock());
  const std::string_view directory = AsBytes(directory_.data(), directory_.size());
  Trailer trailer{.indexed = indexed,
                  .num_samples = num_samples_,
                  .num_blocks = directory_.size(),
                  .directory_offset = written_,
                  .directory_hash = Hash(directory),
                  .hash = 0,
                  .magic = {}};
  kMagic.copy(trailer.magic, sizeof(trailer.magic));
  trailer.hash = TrailerHash(trailer);
  RETURN_IF_ERROR(Write(directory));
  RETURN_IF_ERROR(Write(AsBytes(&trailer, 1)));
  return file_.Commit();
}

absl::StatusOr<SampleIndex> SampleIndex::Open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  SampleIndex index(std::move(file));
  absl::Status status = index.ReadTrailer();
  status.Update(status.ok() ? index.CheckBlocks() : absl::OkStatus());
  if (!status.ok()) {
    return absl::Status(status.code(),
                        fmt::format("{}: {}", path.string(), std::string(status.message())));
  }
  return index;
}

absl::Status SampleIndex::ReadTrailer() {
  const std::string_view file = file_.text();
  if (file.size() < kHeadBytes + sizeof(Trailer)) return absl::DataLossError("too short");
  if (!file.starts_with(kMagic) || Load<uint32_t>(file, kMagic.size()) != kVersion) {
    return absl::DataLossError("no index of this version");
  }
  const uint64_t trailer_offset = file.size() - sizeof(Trailer);
  const auto trailer = Load<Trailer>(file, trailer_offset);
  if (!file.ends_with(kMagic) || trailer.hash != TrailerHash(trailer)) {
    return absl::DataLossError("cut short, or its trailer is damaged");
  }
  indexed_ = trailer.indexed;
  num_samples_ = trailer.num_samples;
  num_blocks_ = trailer.num_blocks;
  directory_offset_ = trailer.directory_offset;
  if (num_blocks_ != num_samples_ / kBlockSamples + (num_samples_ % kBlockSamples != 0) ||
      directory_offset_ < kHeadBytes || directory_offset_ > trailer_offset ||
      num_blocks_ != (trailer_offset - directory_offset_) / kDirectoryEntryBytes ||
      (trailer_offset - directory_offset_) % kDirectoryEntryBytes != 0 ||
      trailer.directory_hash !=
          Hash(file.substr(directory_offset_, trailer_offset - directory_offset_))) {
    return absl::DataLossError("its directory is damaged");
  }
  return absl::OkStatus();
}

// Passes over the whole file, and lets go of its pages: they stay in the system's cache, but count
// as this process's memory no longer.
absl::Status SampleIndex::CheckBlocks() const {
  constexpr uint64_t kPageBytes = 4096;
  constexpr uint64_t kStrideBytes = uint64_t{8} << 20;
  auto* const base = const_cast<char*>(file_.text().data());
  uint64_t released = 0;
  for (uint64_t i = 0; i < num_blocks_; ++i) {
    const uint64_t entry = directory_offset_ + i * kDirectoryEntryBytes;
    const auto offset = Load<uint64_t>(file_.text(), entry);
    const uint64_t count = std::min(kBlockSamples, num_samples_ - i * kBlockSamples);
    const std::string_view block = Block(i);
    if (block.size() < count * sizeof(uint32_t) ||
        Hash(block) != Load<uint64_t>(file_.text(), entry + sizeof(uint64_t))) {
      return absl::DataLossError(fmt::format("block {} at byte {} is damaged", i, offset));
    }
    if (offset >= released + kStrideBytes) {
      ::madvise(base + released, kStrideBytes, MADV_DONTNEED);
      released += kStrideBytes;
    }
  }
  const uint64_t rest = file_.text().size() - released;
  ::madvise(base + released, (rest + kPageBytes - 1) / kPageBytes * kPageBytes, MADV_DONTNEED);
  // Training reads in no order.
  ::madvise(base, file_.text().size(), MADV_RANDOM);
  return absl::OkStatus();
}

// Empty where the directory names no place within the file.
std::string_view SampleIndex::Block(uint64_t block) const {
  const std::string_view file = file_.text();
  const uint64_t entry = directory_offset_ + block * kDirectoryEntryBytes;
  const auto begin = Load<uint64_t>(file, entry);
  const uint64_t end = block + 1 < num_blocks_ ? Load<uint64_t>(file, entry + kDirectoryEntryBytes)
                                               : directory_offset_;
  if (begin < kHeadBytes || begin > end || end > directory_offset_) return {};
  return file.substr(begin, end - begin);
}

SampleIndex::Record SampleIndex::Get(int64_t index) const {
  const uint64_t i = static_cast<uint64_t>(index) / kBlockSamples;
  const uint64_t slot = static_cast<uint64_t>(index) % kBlockSamples;
  const uint64_t count = std::min(kBlockSamples, num_samples_ - i * kBlockSamples);
  const std::string_view block = Block(i);
  if (block.size() < count * sizeof(uint32_t)) return {};
  const uint64_t begin = Load<uint32_t>(block, slot * sizeof(uint32_t));
  const uint64_t end =
      slot + 1 < count ? Load<uint32_t>(block, (slot + 1) * sizeof(uint32_t)) : block.size();
  if (begin > end || end > block.size()) return {};
  std::string_view rest = block.substr(begin, end - begin);
  Record record;
  record.image = TakeText(rest);
  if (const uint64_t place = TakeNumber(rest); place != 0) {
    record.place = {.offset = place - 1, .size = TakeNumber(rest)};
  }
  record.captions = rest;
  return record;
}

bool SampleIndex::NextCaption(std::string_view& captions, std::string_view& caption) {
  if (captions.empty()) return false;
  caption = TakeText(captions);
  return true;
}

}  // namespace albef
