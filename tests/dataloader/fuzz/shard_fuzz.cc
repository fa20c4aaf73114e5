// libFuzzer entry: any bytes are a shard or an error, and every image lies within them.
// shard_fuzz_test runs it over mutated archives in every build; to search with coverage:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DALBEF_TORCH=OFF -DALBEF_FUZZ=ON
//         -DALBEF_SANITIZE=fuzzer-no-link,address,undefined
//   ninja -C build/fuzz shard_fuzz && mkdir found && build/fuzz/bin/shard_fuzz found
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "common/file.h"
#include "dataloader/shard.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const albef::FileDescriptor file(::memfd_create("shard", MFD_CLOEXEC));
  const std::filesystem::path path = "shard.tar";
  if (!file.valid() ||
      !albef::WriteAll(file.get(), std::as_bytes(std::span(data, size)), path).ok()) {
    std::abort();
  }
  int64_t num_samples = 0;
  const auto summary = albef::ReadShard(
      file, path, size,
      [&](const albef::ArchiveMember& image, std::span<const std::string> captions) {
        ++num_samples;
        if (image.offset > size || image.size > size - image.offset) std::abort();
        if (image.offset == 0 && captions.empty()) std::abort();
        return absl::OkStatus();
      });
  if (summary.ok() && summary->num_samples != num_samples) std::abort();
  return 0;
}
