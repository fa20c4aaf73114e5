// From an encoded image to the pixels of a sample: the border between the batch stream and image
// decoding.
#ifndef ALBEF_DATALOADER_IMAGE_LOADER_H_
#define ALBEF_DATALOADER_IMAGE_LOADER_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "common/random.h"

namespace albef {

// Implementations are called from many threads at once.
class ImageLoader {
 public:
  virtual ~ImageLoader() = default;

  // Fills `image_HWC` (square, three RGB bytes per pixel) with the picture encoded in `bytes`,
  // augmented by draws from `random` alone. The code of a failure says whose fault it is:
  // NOT_FOUND, INVALID_ARGUMENT and DATA_LOSS are the content's (missing, absurd, undecodable) and
  // make a bad sample; every other code is the machine's and the load is tried again. The message
  // is the reason; the caller knows the path.
  virtual absl::Status Load(std::string_view bytes, RandomStream random,
                            std::span<uint8_t> image_HWC) const = 0;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_IMAGE_LOADER_H_
