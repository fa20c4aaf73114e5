// Set-up of LibTorch for a run: device, threads, determinism, precision; and the facts about
// hardware and libraries on which the bits of a result depend (design §4, Determinism).
#ifndef ALBEF_WORKER_COMPUTE_H_
#define ALBEF_WORKER_COMPUTE_H_

#include <torch/types.h>

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace albef {

struct ComputeOptions {
  std::string device = "cpu";  // or "cuda"
  // Of several visible GPUs this one is taken; a single one in any case, for launchers that show
  // each worker its own.
  int64_t local_rank = 0;
  int threads = 1;  // intra-op threads of LibTorch
  bool deterministic = true;
  bool tf32 = false;  // GPU only
};

// Call once, before the first tensor operation, in the thread that computes. INVALID_ARGUMENT for a
// device this build or machine lacks.
absl::StatusOr<torch::Device> ConfigureCompute(const ComputeOptions& options);

// CPU or GPU model, instruction set LibTorch dispatches to, library versions, thread count.
std::map<std::string, std::string> ComputeFacts(const torch::Device& device);

}  // namespace albef

#endif  // ALBEF_WORKER_COMPUTE_H_
