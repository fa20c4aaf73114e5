#include "dataloader/annotations.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "dataloader/json_reader.h"

namespace albef {
namespace {

struct Row {
  std::string image;
  bool has_image = false;
  std::vector<std::string> captions;
  size_t num_captions = 0;  // of `captions`, whose strings are reused from row to row
  bool has_caption = false;

  std::string& NewCaption() {
    if (num_captions == captions.size()) captions.emplace_back();
    return captions[num_captions++];
  }
};

absl::Status ReadCaptions(JsonReader& reader, Row& row) {
  row.has_caption = true;
  row.num_captions = 0;
  if (reader.Peek() == '"') return reader.ReadString(row.NewCaption());
  if (reader.Peek() != '[') return reader.Error("\"caption\" is neither a string nor a list");
  RETURN_IF_ERROR(reader.Open('['));
  bool first = true;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, reader.Next(']', first));
    if (!more) return absl::OkStatus();
    RETURN_IF_ERROR(reader.ReadString(row.NewCaption()));
  }
}

// As in Python, the last of equal keys counts.
absl::Status ReadRow(JsonReader& reader, Row& row) {
  row.has_image = row.has_caption = false;
  RETURN_IF_ERROR(reader.Open('{'));
  bool first = true;
  std::string key;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, reader.Next('}', first));
    if (!more) break;
    RETURN_IF_ERROR(reader.ReadKey(key));
    if (key == "image") {
      RETURN_IF_ERROR(reader.ReadString(row.image));
      row.has_image = true;
    } else if (key == "caption") {
      RETURN_IF_ERROR(ReadCaptions(reader, row));
    } else {
      RETURN_IF_ERROR(reader.Skip());
    }
  }
  if (!row.has_image) return reader.Error("no key \"image\" in the object that ends");
  if (!row.has_caption) return reader.Error("no key \"caption\" in the object that ends");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Annotations> Annotations::Load(std::span<const std::filesystem::path> files,
                                              const std::filesystem::path& root) {
  Annotations annotations(root);
  for (const auto& file : files) RETURN_IF_ERROR(annotations.Append(file));
  if (annotations.size() == 0) {
    return absl::InvalidArgumentError(
        files.empty() ? "no annotation file given"
                      : fmt::format("{}: no sample in it{}", files[0].string(),
                                    files.size() > 1 ? " nor in the files after it" : ""));
  }
  annotations.text_.shrink_to_fit();
  annotations.string_begin_.shrink_to_fit();
  annotations.sample_begin_.shrink_to_fit();
  return annotations;
}

absl::Status Annotations::Append(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const MappedFile content, MappedFile::Open(file));
  JsonReader reader(content.text());
  const auto append_string = [&](const std::string& string) {
    text_ += string;
    string_begin_.push_back(text_.size());
  };
  int64_t index = 0;
  const auto read = [&]() -> absl::Status {
    RETURN_IF_ERROR(reader.Open('['));
    bool first = true;
    Row row;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, reader.Next(']', first));
      if (!more) break;
      RETURN_IF_ERROR(ReadRow(reader, row));
      append_string(row.image);
      for (size_t i = 0; i < row.num_captions; ++i) append_string(row.captions[i]);
      sample_begin_.push_back(string_begin_.size() - 1);
      ++index;
    }
    return reader.ExpectEnd();
  };
  if (const absl::Status status = read(); !status.ok()) {
    return absl::Status(
        status.code(),
        fmt::format("{}: sample {}: {}; expected a list of {{\"image\": PATH, \"caption\": TEXT or "
                    "[TEXT, …]}}",
                    file.string(), index, std::string(status.message())));
  }
  return absl::OkStatus();
}

std::string_view Annotations::String(uint64_t index) const {
  return std::string_view(text_).substr(string_begin_[index],
                                        string_begin_[index + 1] - string_begin_[index]);
}

Sample Annotations::Get(int64_t index) const {
  const uint64_t begin = sample_begin_[static_cast<size_t>(index)];
  const uint64_t end = sample_begin_[static_cast<size_t>(index) + 1];
  Sample sample{.image_path = root_ / String(begin)};
  for (uint64_t i = begin + 1; i < end; ++i) sample.captions.emplace_back(String(i));
  return sample;
}

}  // namespace albef
