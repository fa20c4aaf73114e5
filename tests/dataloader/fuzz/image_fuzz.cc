// libFuzzer entry: any bytes are a picture or an error, and a picture goes through the transforms.
// image_fuzz_test runs it over mutated fixtures in every build; to search with coverage:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DALBEF_TORCH=OFF -DALBEF_FUZZ=ON
//         -DALBEF_SANITIZE=fuzzer-no-link,address,undefined
//   ninja -C build/fuzz image_fuzz && mkdir found &&
//   build/fuzz/bin/image_fuzz found tests/golden/image-own/encoded
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "dataloader/image_decode.h"
#include "dataloader/image_transform.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using albef::ImageCompat;
  const ImageCompat compat = size % 2 == 0 ? ImageCompat::kCorrected : ImageCompat::kOfficial;
  albef::Image image;
  const albef::DecodeOptions options{.compat = compat, .max_pixels = 1 << 18};
  const absl::Status status = albef::DecodeImage({data, size}, options, image);
  // A part of the picture has the pixels that it has in the whole.
  albef::Image part_image;
  albef::Box box, part;
  const absl::Status part_status = albef::DecodeImagePart(
      {data, size}, options,
      [&](int height, int width) {
        albef::RandomStream draw(2, albef::RandomPurpose::kImageAugmentation, size);
        return box = albef::SampleCrop(height, width, {.scale_min = 0.01}, draw);
      },
      part_image, part);
  if (part_status != status) std::abort();
  if (!status.ok()) return 0;
  if (image.height < 1 || image.width < 1 ||
      image.rgb_HWC.size() !=
          static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3) {
    std::abort();
  }
  if (part.height != box.height || part.width != box.width) std::abort();
  for (int y = 0; y < box.height; ++y) {
    if (std::memcmp(image.view().row(box.top + y) + 3 * box.left,
                    part_image.view().row(part.top + y) + 3 * part.left,
                    static_cast<size_t>(box.width) * 3) != 0) {
      std::abort();
    }
  }
  static const auto loader =
      albef::TrainingImageLoader::Create({.image_res = 8, .scale_min = 0.01, .compat = compat});
  std::vector<uint8_t> output_HWC(8 * 8 * 3);
  const albef::RandomStream random(1, albef::RandomPurpose::kImageAugmentation, size);
  loader->Apply(loader->Sample(image.height, image.width, random), image.view(),
                {8, 8, output_HWC});
  return 0;
}
