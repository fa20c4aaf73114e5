#include "dataloader/shard.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/annotations.h"
#include "dataloader/json_reader.h"
#include "dataloader/tar_reader.h"

namespace albef {
namespace {

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

struct Name {
  std::string_view key;  // with the folder
  std::string suffix;    // without its dot, small letters
};

// Absent for what belongs to no sample.
std::optional<Name> Split(std::string_view path) {
  const size_t base = path.rfind('/') + 1;  // 0 without a slash
  const size_t dot = path.find('.', base);
  if (dot == path.npos || dot == base) return std::nullopt;
  if (path.substr(base).starts_with("__") && path.ends_with("__")) return std::nullopt;
  return Name{path.substr(0, dot), LowerCase(path.substr(dot + 1))};
}

bool IsImage(std::string_view suffix) {
  return suffix == "jpg" || suffix == "jpeg" || suffix == "png" || suffix == "webp" ||
         suffix == "bmp" || suffix == "gif";
}

// Nothing where the text is no JSON object, or has no caption.
std::vector<std::string> CaptionsOfJson(std::string_view text) {
  std::vector<std::string> captions;
  JsonReader reader(text);
  const auto read = [&]() -> absl::Status {
    RETURN_IF_ERROR(reader.Open('{'));
    std::string key;
    bool first = true;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, reader.Next('}', first));
      if (!more) return reader.ExpectEnd();
      RETURN_IF_ERROR(reader.ReadKey(key));
      if (key == "caption" && (reader.Peek() == '"' || reader.Peek() == '[')) {
        RETURN_IF_ERROR(ReadCaptions(reader, captions));
      } else {
        if (key == "caption") captions.clear();
        RETURN_IF_ERROR(reader.Skip());
      }
    }
  };
  if (!read().ok()) captions.clear();
  return captions;
}

// The members of one key, as they come.
class Group {
 public:
  // Whether a member belongs to the sample under way.
  bool Continues(const Name& name) const {
    return name.key == key_ && std::ranges::find(suffixes_, name.suffix) == suffixes_.end();
  }
  void Begin(std::string_view key) {
    *this = Group();
    key_ = key;
  }
  absl::Status Add(const Name& name, const TarReader::Member& member, TarReader& tar) {
    suffixes_.push_back(name.suffix);
    if (IsImage(name.suffix)) {
      if (!image_) image_ = {.name = member.name, .offset = member.offset, .size = member.size};
      return absl::OkStatus();
    }
    if ((name.suffix != "txt" && name.suffix != "json") || member.size > TarReader::kMaxTextBytes) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::string_view text, tar.Read(member));
    if (name.suffix == "txt") {
      captions_ = {std::string(text)};
      has_text_ = true;
    } else if (!has_text_) {
      captions_ = CaptionsOfJson(text);
    }
    return absl::OkStatus();
  }

  bool is_sample() const { return image_ || !captions_.empty(); }
  bool is_complete() const { return image_ && !captions_.empty(); }
  ArchiveMember image() const { return image_.value_or(ArchiveMember{.name = key_}); }
  std::span<const std::string> captions() const { return captions_; }

 private:
  std::string key_;
  std::vector<std::string> suffixes_;
  std::optional<ArchiveMember> image_;
  std::vector<std::string> captions_;
  bool has_text_ = false;
};

}  // namespace

bool IsShard(const std::filesystem::path& path) {
  const std::string name = LowerCase(path.filename().string());
  return name.ends_with(".tar") || name.ends_with(".tgz") || name.find(".tar.") != name.npos;
}

absl::StatusOr<ShardSummary> ReadShard(
    const FileDescriptor& file, const std::filesystem::path& path, uint64_t size,
    absl::FunctionRef<absl::Status(const ArchiveMember&, std::span<const std::string>)> visit) {
  TarReader tar(file, path, size);
  ShardSummary summary;
  Group group;
  const auto end_group = [&] {
    ++summary.num_samples;
    return visit(group.image(), group.captions());
  };
  TarReader::Member member;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, tar.Next(member));
    if (!more) break;
    if (!member.is_file) continue;
    const std::optional<Name> name = Split(member.name);
    if (!name) continue;
    if (!group.Continues(*name)) {
      if (group.is_sample()) RETURN_IF_ERROR(end_group());
      group.Begin(name->key);
    }
    RETURN_IF_ERROR(group.Add(*name, member, tar));
  }
  summary.is_cut_short = tar.is_cut_short();
  if (summary.is_cut_short ? group.is_complete() : group.is_sample()) RETURN_IF_ERROR(end_group());
  return summary;
}

}  // namespace albef
