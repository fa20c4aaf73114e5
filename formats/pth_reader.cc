// Opening a .pth file: which format it is, and where its pickle and its storages lie.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "common/status_macros.h"
#include "formats/pickle.h"
#include "formats/pth.h"
#include "formats/pth_tensors.h"
#include "formats/utf8.h"
#include "formats/zip.h"

namespace albef {
namespace {

using Bytes = std::span<const std::byte>;
using Kind = PickleValue::Kind;

constexpr std::string_view kOldMagic = "119547037146038801333356";  // 0x1950a86a20f9469cfc6c
constexpr int64_t kOldProtocol = 1001;

std::vector<std::string> UnknownClasses(const std::set<std::string, std::less<>>& globals) {
  std::vector<std::string> unknown;
  for (const std::string& global : globals) {
    if (!IsKnownGlobal(global)) unknown.push_back(global);
  }
  return unknown;
}

struct Loaded {
  PickleValue root;
  std::vector<std::string> unknown_classes;
};

absl::StatusOr<Loaded> Load(Pickle pickle, PthStorages storages, size_t file_bytes) {
  RETURN_IF_ERROR(BuildTensors(pickle.root, std::move(storages), file_bytes));
  return Loaded{std::move(pickle.root), UnknownClasses(pickle.globals)};
}

absl::StatusOr<Loaded> LoadZip(Bytes bytes, const std::string& name) {
  ASSIGN_OR_RETURN(const ZipReader zip, ZipReader::Parse(bytes, name));
  constexpr std::string_view kRootEntry = "/data.pkl";
  std::string folder;
  for (const auto& [entry, unused] : zip.entries()) {
    if (!entry.ends_with(kRootEntry) || entry.find('/') != entry.size() - kRootEntry.size()) {
      continue;
    }
    if (!folder.empty()) {
      return absl::InvalidArgumentError(fmt::format("{}: two data.pkl in the archive", name));
    }
    folder = entry.substr(0, entry.size() - kRootEntry.size() + 1);
  }
  if (folder.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: no data.pkl in the archive: not a file of torch.save", name));
  }
  if (zip.entries().contains(folder + "constants.pkl")) {
    return absl::InvalidArgumentError(
        fmt::format("{}: a TorchScript program, not a checkpoint; save its state_dict() "
                    "with torch.save",
                    name));
  }
  if (zip.entries().contains(folder + "byteorder")) {
    ASSIGN_OR_RETURN(const Bytes order, zip.Read(folder + "byteorder"));
    constexpr std::string_view kLittle = "little";
    if (!std::ranges::equal(order, std::as_bytes(std::span(kLittle)))) {
      return absl::InvalidArgumentError(fmt::format("{}: written by a big-endian machine", name));
    }
  }
  ASSIGN_OR_RETURN(const Bytes root, zip.Read(folder + "data.pkl"));
  ASSIGN_OR_RETURN(Pickle pickle, ParsePickle(root, fmt::format("{} (data.pkl)", name)));
  ASSIGN_OR_RETURN(PthStorages storages, PthStorages::Collect(pickle.root, name));
  storages.SetSource(
      [&zip, &folder](const std::string& key) { return zip.Read(folder + "data/" + key); });
  return Load(std::move(pickle), std::move(storages), bytes.size());
}

// The old format: pickles of a magic number, a version, facts about the machine, the object and the
// keys of its storages; then of each storage the number of elements and the data.
absl::StatusOr<Loaded> LoadOld(Bytes bytes, const std::string& name) {
  Bytes rest = bytes;
  const auto next = [&](std::string_view what) -> absl::StatusOr<Pickle> {
    ASSIGN_OR_RETURN(Pickle pickle, ParsePickle(rest, fmt::format("{} ({})", name, what)));
    rest = rest.subspan(pickle.bytes);
    return pickle;
  };
  ASSIGN_OR_RETURN(const Pickle magic, next("magic number"));
  if (magic.root.kind() != Kind::kBigInt || magic.root.text() != kOldMagic) {
    return absl::InvalidArgumentError(fmt::format("{}: a pickle, but not of torch.save", name));
  }
  ASSIGN_OR_RETURN(const Pickle version, next("version"));
  if (version.root.AsInt().value_or(0) != kOldProtocol) {
    return absl::InvalidArgumentError(
        fmt::format("{}: an unknown version of torch.save's old format", name));
  }
  ASSIGN_OR_RETURN(const Pickle machine, next("machine"));
  const absl::StatusOr<PickleValue> little = machine.root.Find("little_endian");
  if (!little.ok() || !little->AsBool().value_or(false)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: not written by a little-endian machine", name));
  }
  ASSIGN_OR_RETURN(Pickle object, next("object"));
  ASSIGN_OR_RETURN(const Pickle keys, next("storage keys"));
  if (keys.root.kind() != Kind::kList) {
    return absl::InvalidArgumentError(fmt::format("{}: its storage keys are not a list", name));
  }

  ASSIGN_OR_RETURN(PthStorages storages, PthStorages::Collect(object.root, name));
  std::map<std::string, Bytes> data;
  for (const PickleValue& value : keys.root.elements()) {
    const std::string key(value.text());
    const PthStorages::Storage* storage = storages.Describe(key);
    if (storage == nullptr) {
      return absl::InvalidArgumentError(
          fmt::format("{}: storage {} is not referred to, so that its element type is "
                      "not known",
                      name, Quoted(key)));
    }
    uint64_t elements = 0;
    if (rest.size() >= sizeof(elements)) {
      std::memcpy(&elements, rest.data(), sizeof(elements));
      rest = rest.subspan(sizeof(elements));
    }
    if (elements > rest.size() / storage->type->element_bytes ||
        elements * storage->type->element_bytes != storage->bytes) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: storage {} of {} bytes is truncated or damaged", name, Quoted(key), storage->bytes));
    }
    if (!data.emplace(key, rest.first(storage->bytes)).second) {
      return absl::InvalidArgumentError(
          fmt::format("{}: storage {} is there twice", name, Quoted(key)));
    }
    rest = rest.subspan(storage->bytes);
  }
  storages.SetSource([&data, &name](const std::string& key) -> absl::StatusOr<Bytes> {
    const auto found = data.find(key);
    if (found == data.end()) {
      return absl::InvalidArgumentError(
          fmt::format("{}: storage {} is not in the file", name, Quoted(key)));
    }
    return found->second;
  });
  return Load(std::move(object), std::move(storages), bytes.size());
}

bool LooksLikeTar(Bytes bytes) {
  constexpr std::string_view kMagic = "ustar";
  constexpr size_t kMagicOffset = 257;
  return bytes.size() > kMagicOffset + kMagic.size() &&
         std::ranges::equal(bytes.subspan(kMagicOffset, kMagic.size()),
                            std::as_bytes(std::span(kMagic)));
}

}  // namespace

absl::StatusOr<PthFile> PthFile::Parse(std::span<const std::byte> bytes, const std::string& name) {
  constexpr std::byte kPickle{0x80};
  const bool zip = ZipReader::LooksLikeZip(bytes);
  if (!zip && LooksLikeTar(bytes)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: the tar format of PyTorch before 0.1.10 is not supported; load "
                    "and save the file with a newer version",
                    name));
  }
  if (!zip && (bytes.empty() || bytes[0] != kPickle)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: neither a zip archive nor a pickle: not a file of torch.save, "
                    "or damaged at its beginning",
                    name));
  }
  absl::StatusOr<Loaded> loaded = zip ? LoadZip(bytes, name) : LoadOld(bytes, name);
  if (!loaded.ok()) return std::move(loaded).status();
  return PthFile(std::move(loaded->root), std::move(loaded->unknown_classes));
}

absl::StatusOr<PthFile> PthFile::Open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(PthFile result, Parse(file.bytes(), path.string()));
  result.file_ = std::move(file);
  return result;
}

}  // namespace albef
