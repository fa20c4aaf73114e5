// libFuzzer entry: any bytes are a picture or an error, and a picture goes through the transforms.
// image_fuzz_test runs it over mutated fixtures in every build; to search with coverage:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DALBEF_TORCH=OFF -DALBEF_FUZZ=ON
//         -DALBEF_SANITIZE=fuzzer-no-link,address,undefined
//   ninja -C build/fuzz image_fuzz && mkdir found &&
//   build/fuzz/bin/image_fuzz found tests/golden/image-own/encoded
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "dataloader/image_decode.h"
#include "dataloader/image_transform.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using albef::ImageCompat;
  const ImageCompat compat = size % 2 == 0 ? ImageCompat::kCorrected : ImageCompat::kOfficial;
  albef::Image image;
  const albef::DecodeOptions options{.compat = compat, .max_pixels = 1 << 18};
  if (!albef::DecodeImage({data, size}, options, image).ok()) return 0;
  if (image.height < 1 || image.width < 1 ||
      image.rgb_HWC.size() !=
          static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3) {
    std::abort();
  }
  static const auto loader =
      albef::TrainingImageLoader::Create({.image_res = 8, .scale_min = 0.01, .compat = compat});
  std::vector<uint8_t> output_HWC(8 * 8 * 3);
  const albef::RandomStream random(1, albef::RandomPurpose::kImageAugmentation, size);
  loader->Apply(loader->Sample(image.height, image.width, random), image.view(),
                {8, 8, output_HWC});
  return 0;
}
