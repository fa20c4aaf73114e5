#include "dataloader/image_transform.h"

#include <fmt/format.h>

#include <new>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "dataloader/image_decode.h"
#include "dataloader/resize.h"
#include "dataloader/sample_source.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxKeptBytes = size_t{64} << 20;
constexpr int kMaxResolution = 8192;

absl::Status CheckResolution(int image_res) {
  if (image_res >= 1 && image_res <= kMaxResolution) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("image_res is {}: it must lie in 1..{}", image_res, kMaxResolution));
}

// The caller's output as a picture.
absl::StatusOr<MutableImageView> SquareView(int image_res, std::span<uint8_t> image_HWC) {
  const size_t side = static_cast<size_t>(image_res);
  if (image_HWC.size() != side * side * 3) {
    return absl::FailedPreconditionError(
        fmt::format("the output has {} bytes, a picture of image_res {} needs {}", image_HWC.size(),
                    image_res, side * side * 3));
  }
  return MutableImageView{image_res, image_res, image_HWC};
}

std::span<const uint8_t> AsBytes(std::string_view content) {
  return {reinterpret_cast<const uint8_t*>(content.data()), content.size()};
}

// Decodes what choose(height, width) wants of the picture and hands it to transform(picture, the
// box in it, output).
template <typename Transform>
absl::Status LoadSquare(std::string_view bytes, ImageCompat compat, int image_res,
                        std::span<uint8_t> image_HWC, ChooseBox choose, Transform transform) {
  thread_local Image image;
  ASSIGN_OR_RETURN(const MutableImageView output, SquareView(image_res, image_HWC));
  try {
    Box part;
    RETURN_IF_ERROR(DecodeImagePart(AsBytes(bytes), {.compat = compat}, choose, image, part));
    transform(image.view(), part, output);
    // One giant must not occupy the memory of every thread for the rest of the run.
    if (image.rgb_HWC.capacity() > kMaxKeptBytes) image = Image();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to load the picture");
  }
  return absl::OkStatus();
}

// Reads the file and calls use(content), whose message gets the path in front.
template <typename Use>
absl::Status WithContent(const fs::path& path, Use use) {
  std::string content;
  RETURN_IF_ERROR(ReadRegularFileInto(path, kMaxImageFileBytes, content));
  const absl::Status status = use(content);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      fmt::format("{}: {}", path.string(), std::string(status.message())));
}

}  // namespace

absl::Status ReadImage(const fs::path& path, ImageCompat compat, Image& image) {
  return WithContent(path, [&](std::string_view content) {
    return DecodeImage(AsBytes(content), {.compat = compat}, image);
  });
}

absl::Status LoadImageFile(const ImageLoader& loader, const fs::path& path, RandomStream random,
                           std::span<uint8_t> image_HWC) {
  return WithContent(
      path, [&](std::string_view content) { return loader.Load(content, random, image_HWC); });
}

absl::StatusOr<TrainingImageLoader> TrainingImageLoader::Create(const Options& options) {
  RETURN_IF_ERROR(CheckResolution(options.image_res));
  if (!(options.scale_min > 0.0 && options.scale_min <= options.scale_max &&
        options.scale_max <= 1.0)) {
    return absl::InvalidArgumentError(
        fmt::format("the crop's scale is {}..{}: it must satisfy 0 < min <= max <= 1",
                    options.scale_min, options.scale_max));
  }
  return TrainingImageLoader(options);
}

TrainingTransform TrainingImageLoader::Sample(int height, int width, RandomStream random) const {
  TrainingTransform transform;
  transform.crop = SampleCrop(
      height, width, {.scale_min = options_.scale_min, .scale_max = options_.scale_max}, random);
  transform.flip = random.Bernoulli(0.5);
  if (options_.augment) transform.augment = SampleAugment(random);
  return transform;
}

void TrainingImageLoader::Apply(const TrainingTransform& transform, ImageView source,
                                MutableImageView output) const {
  thread_local std::vector<uint8_t> scratch;
  CropAndResize(source, transform.crop, output, {.mirror = transform.flip});
  for (const AugmentStep& step : transform.augment) {
    ApplyAugment(step, options_.compat, output, scratch);
  }
}

absl::Status TrainingImageLoader::Load(std::string_view bytes, RandomStream random,
                                       std::span<uint8_t> image_HWC) const {
  TrainingTransform drawn;
  return LoadSquare(
      bytes, options_.compat, options_.image_res, image_HWC,
      [&](int height, int width) {
        drawn = Sample(height, width, random);
        return drawn.crop;
      },
      [&](ImageView source, const Box& part, MutableImageView output) {
        drawn.crop = part;
        Apply(drawn, source, output);
      });
}

absl::StatusOr<EvaluationImageLoader> EvaluationImageLoader::Create(const Options& options) {
  RETURN_IF_ERROR(CheckResolution(options.image_res));
  return EvaluationImageLoader(options);
}

absl::Status EvaluationImageLoader::Load(std::string_view bytes, RandomStream /*random*/,
                                         std::span<uint8_t> image_HWC) const {
  return LoadSquare(
      bytes, options_.compat, options_.image_res, image_HWC,
      [](int height, int width) { return Box{.height = height, .width = width}; },
      [](ImageView source, const Box& part, MutableImageView output) {
        CropAndResize(source, part, output);
      });
}

}  // namespace albef
