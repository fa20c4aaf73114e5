#include "tests/dataloader/image_golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace albef {

namespace fs = std::filesystem;

fs::path ImageGolden::OwnFolder() { return "tests/golden/image-own"; }

fs::path ImageGolden::SharedFolder() {
  const char* goldens = std::getenv("ALBEF_GOLDENS");
  return fs::path(goldens != nullptr ? goldens : "../shared/goldens") / "image";
}

nlohmann::json ImageGolden::Json(const std::string& name) const {
  std::ifstream file(folder_ / name);
  if (!file) throw std::runtime_error(fmt::format("cannot open {}", (folder_ / name).string()));
  return nlohmann::json::parse(file);
}

const SafetensorsFile& ImageGolden::Open(const std::string& name) {
  auto found = files_.find(name);
  if (found == files_.end()) {
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(folder_ / name);
    if (!file.ok()) throw std::runtime_error(std::string(file.status().message()));
    found = files_.emplace(name, *std::move(file)).first;
  }
  return found->second;
}

TensorView ImageGolden::Tensor(const std::string& reference) {
  const size_t colon = reference.find(':');
  const absl::StatusOr<TensorView> tensor =
      Open(reference.substr(0, colon)).Find(reference.substr(colon + 1));
  if (!tensor.ok()) throw std::runtime_error(std::string(tensor.status().message()));
  return *tensor;
}

Image ImageGolden::Picture(const std::string& reference) {
  const TensorView tensor = Tensor(reference);
  if (tensor.dtype != DType::kU8 || tensor.shape.size() != 3 || tensor.shape[2] != 3) {
    throw std::runtime_error(reference + ": not a uint8 [H, W, 3] tensor");
  }
  Image image;
  image.Resize(static_cast<int>(tensor.shape[0]), static_cast<int>(tensor.shape[1]));
  std::memcpy(image.rgb_HWC.data(), tensor.bytes.data(), tensor.bytes.size());
  return image;
}

Image ImageGolden::Picture(const std::string& reference, size_t index) {
  const TensorView tensor = Tensor(reference);
  if (tensor.dtype != DType::kU8 || tensor.shape.size() != 4 || tensor.shape[3] != 3 ||
      index >= static_cast<size_t>(tensor.shape[0])) {
    throw std::runtime_error(reference + ": not a uint8 [N, H, W, 3] tensor with this entry");
  }
  Image image;
  image.Resize(static_cast<int>(tensor.shape[1]), static_cast<int>(tensor.shape[2]));
  std::memcpy(image.rgb_HWC.data(), tensor.bytes.data() + index * image.rgb_HWC.size(),
              image.rgb_HWC.size());
  return image;
}

std::string Difference(ImageView actual, ImageView expected) {
  if (actual.height != expected.height || actual.width != expected.width) {
    return fmt::format("{} x {} pixels instead of {} x {}", actual.width, actual.height,
                       expected.width, expected.height);
  }
  size_t count = 0;
  size_t first = 0;
  int largest = 0;
  for (size_t i = 0; i < expected.rgb_HWC.size(); ++i) {
    const int difference = std::abs(int{actual.rgb_HWC[i]} - int{expected.rgb_HWC[i]});
    if (difference != 0 && count++ == 0) first = i;
    largest = std::max(largest, difference);
  }
  if (count == 0) return "";
  return fmt::format("{} of {} values differ, by up to {}; the first at y={} x={} c={}: {} not {}",
                     count, expected.rgb_HWC.size(), largest, first / expected.row_bytes(),
                     first % expected.row_bytes() / 3, first % 3, actual.rgb_HWC[first],
                     expected.rgb_HWC[first]);
}

AugmentOp AugmentOpFromName(const std::string& name) {
  static constexpr std::array<std::pair<const char*, AugmentOp>, kNumAugmentOps> kNames = {{
      {"Identity", AugmentOp::kIdentity},
      {"AutoContrast", AugmentOp::kAutoContrast},
      {"Equalize", AugmentOp::kEqualize},
      {"Rotate", AugmentOp::kRotate},
      {"Sharpness", AugmentOp::kSharpness},
      {"Brightness", AugmentOp::kBrightness},
      {"ShearX", AugmentOp::kShearX},
      {"ShearY", AugmentOp::kShearY},
      {"TranslateX", AugmentOp::kTranslateX},
      {"TranslateY", AugmentOp::kTranslateY},
  }};
  for (const auto& [text, op] : kNames) {
    if (name == text) return op;
  }
  throw std::runtime_error(fmt::format("no operation is called {}", name));
}

}  // namespace albef
