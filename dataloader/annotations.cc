#include "dataloader/annotations.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "common/status_macros.h"

namespace albef {
namespace {

struct Row {
  std::string image;
  bool has_image = false;
  std::vector<std::string> captions;
  bool has_caption = false;
};

absl::Status ReadRow(JsonReader& reader, std::string& key, Row& row) {
  row.has_image = row.has_caption = false;
  RETURN_IF_ERROR(reader.Open('{'));
  bool first = true;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, reader.Next('}', first));
    if (!more) break;
    RETURN_IF_ERROR(reader.ReadKey(key));
    if (key == "image") {
      RETURN_IF_ERROR(reader.ReadString(row.image));
      row.has_image = true;
    } else if (key == "caption") {
      RETURN_IF_ERROR(ReadCaptions(reader, row.captions));
      row.has_caption = true;
    } else {
      RETURN_IF_ERROR(reader.Skip());
    }
  }
  if (!row.has_image) return reader.Error("no key \"image\" in the object that ends");
  if (!row.has_caption) return reader.Error("no key \"caption\" in the object that ends");
  return absl::OkStatus();
}

JsonReader::Read ReadFrom(const FileDescriptor& file, const std::filesystem::path& path) {
  return [&file, &path, offset = off_t{0}](std::span<char> room) mutable -> absl::StatusOr<size_t> {
    while (true) {
      const ssize_t count = ::pread(file.get(), room.data(), room.size(), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return ErrnoStatus(errno, "read", path);
      offset += count;
      return static_cast<size_t>(count);
    }
  };
}

}  // namespace

absl::Status ReadCaptions(JsonReader& reader, std::vector<std::string>& captions) {
  // Strings that are there already are reused.
  size_t count = 0;
  const auto read_one = [&] {
    if (count == captions.size()) captions.emplace_back();
    return reader.ReadString(captions[count++]);
  };
  if (reader.Peek() == '"') {
    RETURN_IF_ERROR(read_one());
  } else if (reader.Peek() == '[') {
    RETURN_IF_ERROR(reader.Open('['));
    bool first = true;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, reader.Next(']', first));
      if (!more) break;
      RETURN_IF_ERROR(read_one());
    }
  } else {
    return reader.Error("\"caption\" is neither a string nor a list");
  }
  captions.resize(count);
  return absl::OkStatus();
}

absl::Status ReadAnnotations(
    const FileDescriptor& file, const std::filesystem::path& path,
    absl::FunctionRef<absl::Status(const std::string&, std::span<const std::string>)> visit) {
  JsonReader reader(ReadFrom(file, path));
  int64_t index = 0;
  absl::Status visited;
  const auto read = [&]() -> absl::Status {
    RETURN_IF_ERROR(reader.Open('['));
    bool first = true;
    Row row;
    std::string key;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, reader.Next(']', first));
      if (!more) break;
      RETURN_IF_ERROR(ReadRow(reader, key, row));
      visited = visit(row.image, row.captions);
      RETURN_IF_ERROR(visited);
      ++index;
    }
    return reader.ExpectEnd();
  };
  const absl::Status status = read();
  if (!absl::IsInvalidArgument(status) || !visited.ok()) return status;
  return absl::InvalidArgumentError(
      fmt::format("{}: sample {}: {}; expected a list of {{\"image\": PATH, \"caption\": TEXT or "
                  "[TEXT, …]}}",
                  path.string(), index, std::string(status.message())));
}

}  // namespace albef
