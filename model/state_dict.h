// A model's parameters and buffers under the names, and in the order, of the authors' state dict
// (spec §1): of each module its parameters, then its buffers, then its children in the order of
// their registration. The masked-language head's decoder is tied to the word embeddings and to the
// head's bias; the modules hold these once, the state dict names them twice.
#ifndef ALBEF_MODEL_STATE_DICT_H_
#define ALBEF_MODEL_STATE_DICT_H_

#include <torch/nn/module.h>

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

struct StateEntry {
  std::string key;
  torch::Tensor tensor;  // shares the module's storage
  std::string tied_to;   // a second name: the first name of the same tensor; else empty
};

std::vector<StateEntry> StateDict(const torch::nn::Module& module);

// Tensors by name, as a file holds them.
using TensorMap = std::map<std::string, torch::Tensor, std::less<>>;

// What became of every name, each list in state-dict or name order.
struct LoadReport {
  std::vector<std::string> loaded;
  std::vector<std::string> missing;     // in the model, not in the source
  std::vector<std::string> unexpected;  // in the source, no place in the model
  std::vector<std::string> ignored;     // in the source, left out on purpose

  // "12 loaded, 0 missing, 2 ignored (head.weight, head.bias)" with at most `max_names` names each.
  std::string Summary(size_t max_names = 8) const;
};

struct LoadOptions {
  // Nothing missing and nothing unexpected, else FAILED_PRECONDITION that names the first of them.
  bool require_complete = false;
};

// Copies the tensors of `source` into the entries of the same name, converting dtype and device. A
// shape that differs is INVALID_ARGUMENT that names `source_name`, the key, both shapes and the
// config key that decides. The two names of a tied tensor must hold equal values where the source
// has both; either one serves where it has one. On an error nothing is copied.
absl::StatusOr<LoadReport> LoadTensors(std::span<const StateEntry> entries, const TensorMap& source,
                                       std::string_view source_name,
                                       const LoadOptions& options = {});

// INVALID_ARGUMENT if `source` has a `queue_ptr` that is no column of queues of `queue_size`.
absl::Status CheckQueuePointer(const TensorMap& source, int64_t queue_size,
                               std::string_view source_name);

}  // namespace albef

#endif  // ALBEF_MODEL_STATE_DICT_H_
