#include "worker/device_batch.h"

#include "dataloader/normalize.h"

namespace albef {
namespace {

// A tensor over memory that nobody writes; it must not outlive the memory.
template <typename T>
torch::Tensor Borrow(std::span<const T> values, at::IntArrayRef shape, torch::ScalarType type) {
  return torch::from_blob(const_cast<T*>(values.data()), shape, torch::TensorOptions(type));
}

torch::Tensor ChannelConstants(std::span<const float> values, torch::Device device) {
  return Borrow(values, {3}, torch::kFloat).to(device, torch::kFloat, false, /*copy=*/true);
}

}  // namespace

torch::Tensor NormalizeImages(std::span<const uint8_t> image_BHWC, int64_t image_res,
                              torch::Device device) {
  const int64_t pixels = image_res * image_res * 3;
  TORCH_CHECK(image_res > 0 && static_cast<int64_t>(image_BHWC.size()) % pixels == 0,
              "NormalizeImages: expected whole pictures of ", image_res, "x", image_res, "x3, got ",
              image_BHWC.size(), " bytes");
  const int64_t batch = static_cast<int64_t>(image_BHWC.size()) / pixels;
  const torch::Tensor bytes_BHWC =
      Borrow(image_BHWC, {batch, image_res, image_res, 3}, torch::kByte).to(device);
  torch::Tensor image_BHWC_float = bytes_BHWC.to(torch::kFloat);
  image_BHWC_float.div_(255)
      .sub_(ChannelConstants(kImageMean, device))
      .div_(ChannelConstants(kImageStd, device));
  return image_BHWC_float.permute({0, 3, 1, 2}).contiguous();
}

torch::Tensor TokenTensor(std::span<const int64_t> values, at::IntArrayRef shape,
                          torch::Device device) {
  return Borrow(values, shape, torch::kLong).to(device, torch::kLong, false, /*copy=*/true);
}

PretrainInputs ToDevice(const Batch& batch, torch::Device device) {
  const int64_t shape_BT[] = {batch.batch_size, batch.text_length};
  const int64_t shape_N[] = {static_cast<int64_t>(batch.masked_index_N.size())};
  return {
      .image_BCHW = NormalizeImages(batch.image_BHWC, batch.image_res, device),
      .input_ids_BT = TokenTensor(batch.input_ids_BT, shape_BT, device),
      .attention_mask_BT = TokenTensor(batch.attention_mask_BT, shape_BT, device),
      .mlm_input_ids_BT = TokenTensor(batch.mlm_input_ids_BT, shape_BT, device),
      .masked_index_N = TokenTensor(batch.masked_index_N, shape_N, device),
      .masked_label_N = TokenTensor(batch.masked_label_N, shape_N, device),
  };
}

}  // namespace albef
