// From an encoded image to a square picture of the network's resolution: the two ImageLoaders.
//
// Training: random crop, bicubic resize, flip with probability one half, RandAugment(2, 7).
// Evaluation: bicubic resize of the whole picture, whatever its shape (spec §4.3).
//
// Every draw comes from the given stream, so a sample is a function of bytes and stream alone, on
// whichever thread. Both classes are immutable; Load may be called from any thread, and keeps its
// working memory per thread.
#ifndef ALBEF_DATALOADER_IMAGE_TRANSFORM_H_
#define ALBEF_DATALOADER_IMAGE_TRANSFORM_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/random.h"
#include "dataloader/augment.h"
#include "dataloader/crop.h"
#include "dataloader/image.h"
#include "dataloader/image_loader.h"

namespace albef {

// Reads and decodes a file. Codes as DecodeImage; besides, NOT_FOUND for a missing file, and for
// trouble of the machine that may pass UNAVAILABLE, RESOURCE_EXHAUSTED or PERMISSION_DENIED. The
// message begins with the path.
absl::Status ReadImage(const std::filesystem::path& path, ImageCompat compat, Image& image);

// ImageLoader::Load on the content of a file; codes and message as ReadImage.
absl::Status LoadImageFile(const ImageLoader& loader, const std::filesystem::path& path,
                           RandomStream random, std::span<uint8_t> image_HWC);

// What is random about one training sample, apart from its pixels.
struct TrainingTransform {
  Box crop;
  bool flip = false;
  AugmentPlan augment;
};

class TrainingImageLoader : public ImageLoader {
 public:
  struct Options {
    int image_res = 256;
    // Share of the picture's area that a crop covers.
    double scale_min = 0.2;
    double scale_max = 1.0;
    // Off: crop, resize and flip only.
    bool augment = true;
    ImageCompat compat = ImageCompat::kCorrected;
  };

  // INVALID_ARGUMENT for a resolution or scale out of range.
  static absl::StatusOr<TrainingImageLoader> Create(const Options& options);

  absl::Status Load(std::string_view bytes, RandomStream random,
                    std::span<uint8_t> image_HWC) const override;

  // The draws for a picture of the given size.
  TrainingTransform Sample(int height, int width, RandomStream random) const;

  // Carries a transform out; `output` is image_res square.
  void Apply(const TrainingTransform& transform, ImageView source, MutableImageView output) const;

 private:
  explicit TrainingImageLoader(const Options& options) : options_(options) {}

  Options options_;
};

class EvaluationImageLoader : public ImageLoader {
 public:
  struct Options {
    int image_res = 256;
    ImageCompat compat = ImageCompat::kCorrected;
  };

  static absl::StatusOr<EvaluationImageLoader> Create(const Options& options);

  // Draws nothing from `random`.
  absl::Status Load(std::string_view bytes, RandomStream random,
                    std::span<uint8_t> image_HWC) const override;

 private:
  explicit EvaluationImageLoader(const Options& options) : options_(options) {}

  Options options_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_IMAGE_TRANSFORM_H_
