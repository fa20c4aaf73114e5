// Named tensors of a weights file or of a checkpoint, whatever its format.
#ifndef ALBEF_MODEL_WEIGHTS_FILE_H_
#define ALBEF_MODEL_WEIGHTS_FILE_H_

#include <filesystem>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/pickle_value.h"
#include "model/state_dict.h"

namespace albef {

// Reads a .safetensors file or one of torch.save (.pth, .pt, .bin): a dict of tensors, or a dict
// that holds one under "model" or "state_dict"; or the training state in a checkpoint folder of
// ours (of a run directory, its newest). The tensors are read-only views that keep the file mapped.
// INVALID_ARGUMENT names the file and what is wrong with it; a damaged checkpoint is DATA_LOSS.
absl::StatusOr<TensorMap> ReadWeights(const std::filesystem::path& path);

// The tensors among the items of a pickled dict, as views that keep `owner` alive.
TensorMap TensorsOf(const PickleValue& dict, const std::shared_ptr<const void>& owner);

}  // namespace albef

#endif  // ALBEF_MODEL_WEIGHTS_FILE_H_
