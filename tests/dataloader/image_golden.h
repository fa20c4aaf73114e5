// The image fixtures: folders of pictures and of what the reference implementation makes of them
// (JSON that names tensors in safetensors files).
#ifndef ALBEF_TESTS_DATALOADER_IMAGE_GOLDEN_H_
#define ALBEF_TESTS_DATALOADER_IMAGE_GOLDEN_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "dataloader/augment.h"
#include "dataloader/image.h"
#include "formats/safetensors.h"

namespace albef {

class ImageGolden {
 public:
  explicit ImageGolden(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // The folder that comes with the source: small, made of drawn pictures.
  static std::filesystem::path OwnFolder();
  // $ALBEF_GOLDENS/image, else ../shared/goldens/image: larger, with photographs. May not exist.
  static std::filesystem::path SharedFolder();

  const std::filesystem::path& folder() const { return folder_; }

  // These throw std::runtime_error where the fixture is not as expected.
  nlohmann::json Json(const std::string& name) const;
  const SafetensorsFile& Open(const std::string& name);
  // `reference` is FILE:KEY.
  TensorView Tensor(const std::string& reference);
  Image Picture(const std::string& reference);
  // One picture of a stack.
  Image Picture(const std::string& reference, size_t index);

 private:
  std::filesystem::path folder_;
  std::map<std::string, SafetensorsFile> files_;
};

// "" when both are the same, else what differs and where.
std::string Difference(ImageView actual, ImageView expected);

AugmentOp AugmentOpFromName(const std::string& name);

}  // namespace albef

#endif  // ALBEF_TESTS_DATALOADER_IMAGE_GOLDEN_H_
