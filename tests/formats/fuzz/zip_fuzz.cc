// Fuzz target: any bytes are a zip archive whose entries lie apart from each other, or an error.
#include <cstdint>
#include <cstdlib>

#include "formats/zip.h"
#include "tests/formats/fuzz/seeds.h"

namespace albef {

std::vector<std::string> FuzzSeeds() {
  std::vector<std::string> seeds;
  for (const uint64_t threshold : {uint64_t{0}, uint64_t{0xffffffff}}) {
    TemporaryDirectory directory;
    const auto path = directory.path() / "a.zip";
    auto zip = ZipWriter::Create(path, {.zip64_threshold = threshold});
    const std::string content = "content";
    if (!zip.ok() || !zip->Add("a/x", std::as_bytes(std::span(content))).ok() ||
        !zip->Add("a/y", {}).ok() || !zip->Add("z", std::as_bytes(std::span(content))).ok() ||
        !zip->Commit().ok()) {
      std::abort();
    }
    seeds.push_back(*ReadFile(path));
  }
  return seeds;
}

}  // namespace albef

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto zip = albef::ZipReader::Parse(bytes, "fuzz");
  if (!zip.ok()) return 0;
  size_t total = 0;
  for (const auto& [name, entry] : zip->entries()) {
    total += entry.bytes.size();
    zip->Read(name).status().IgnoreError();
  }
  if (total > size) std::abort();
  return 0;
}
