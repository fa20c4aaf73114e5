// Fuzz target: any bytes are a file of torch.save whose tensors are all readable, or an error.
//
// A mutated archive would nearly always end at a CRC that does not match, so the CRCs of archives
// are put right first.
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "formats/pth.h"
#include "formats/zip.h"
#include "formats/zip_format.h"
#include "tests/formats/fuzz/seeds.h"
#include "tests/formats/fuzz/walk.h"

namespace albef {
namespace {

std::string OldFormat() {
  using namespace std::string_literals;
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
         "\x80\x02}U\x0dlittle_endian\x88s."
         "\x80\x02}(U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n"
         "U\x01"
         "0U\x06"
         "cuda:0K\x06NtQK\0K\x02K\x03\x86K\x03K\x01\x86\x89}tR"
         "U\x01tctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\n"
         "U\x01"
         "0U\x06"
         "cuda:0K\x06NtQK\x01(K\x02K\x02t(K\x01K\x03ttRu.\x80\x02]U\x01"
         "0a."
         "\x06\0\0\0\0\0\0\0"s +
         std::string(24, 'x');
}

// Sets the CRC of every entry to that of its bytes.
void RepairCrcs(std::vector<std::byte>& file) {
  const auto zip = ZipReader::Parse(file, "fuzz");
  if (!zip.ok()) return;
  for (const auto& [name, entry] : zip->entries()) {
    const auto crc = static_cast<uint32_t>(::crc32_z(
        0, reinterpret_cast<const unsigned char*>(entry.bytes.data()), entry.bytes.size()));
    for (size_t at = 0; at + zip::kCentralBytes + name.size() <= file.size(); ++at) {
      const auto signature = zip::Load<uint32_t>(file, at);
      if (signature != zip::kCentralSignature && signature != zip::kLocalSignature) continue;
      const bool central = signature == zip::kCentralSignature;
      const size_t name_at = at + (central ? zip::kCentralBytes : zip::kLocalBytes);
      if (std::memcmp(&file[name_at], name.data(), name.size()) != 0) continue;
      std::memcpy(&file[at + (central ? 16 : 14)], &crc, sizeof(crc));
    }
  }
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a.pth";
  const std::vector<std::byte> bytes(16);
  const PickleValue tensor =
      PickleValue::Tensor({.view = {.dtype = DType::kF32, .shape = {2, 2}, .bytes = bytes},
                           .storage_key = {},
                           .storage_offset = 0,
                           .requires_grad = true,
                           .owned = {}});
  const PickleValue model =
      PickleValue::OrderedDict({{"a", tensor}, {"b", tensor}}, PickleValue::Dict({{"v", 1}}));
  if (!WritePth(path, PickleValue::Dict({{"model", model}, {"epoch", 3}})).ok()) std::abort();
  return {*ReadFile(path), OldFormat()};
}

}  // namespace albef

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  std::vector<std::byte> bytes(input.begin(), input.end());
  albef::RepairCrcs(bytes);
  const auto file = albef::PthFile::Parse(bytes, "fuzz");
  if (file.ok() && albef::Walk(file->root()) == 0) std::abort();
  return 0;
}
