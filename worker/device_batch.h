// From the dataloader's host memory to the network's inputs on a device.
#ifndef ALBEF_WORKER_DEVICE_BATCH_H_
#define ALBEF_WORKER_DEVICE_BATCH_H_

#include <torch/types.h>

#include <cstdint>
#include <span>

#include "dataloader/batch.h"
#include "model/albef.h"

namespace albef {

// uint8 pixels → (p / 255 − mean) / std in float32, channel first (spec §4.3), computed on `device`
// with the arithmetic of dataloader/normalize.h.
torch::Tensor NormalizeImages(std::span<const uint8_t> image_BHWC, int64_t image_res,
                              torch::Device device);

// A (rows, columns) int64 tensor on `device`.
torch::Tensor TokenTensor(std::span<const int64_t> values, at::IntArrayRef shape,
                          torch::Device device);

// Copies everything: the batch may be released afterwards.
PretrainInputs ToDevice(const Batch& batch, torch::Device device);

}  // namespace albef

#endif  // ALBEF_WORKER_DEVICE_BATCH_H_
