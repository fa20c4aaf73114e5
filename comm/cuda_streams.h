// CUDA's streams and events for an NcclCommunicator.
#ifndef ALBEF_COMM_CUDA_STREAMS_H_
#define ALBEF_COMM_CUDA_STREAMS_H_

#include <torch/types.h>

#include <memory>

#include "absl/status/statusor.h"
#include "comm/stream_device.h"

namespace albef {

// FAILED_PRECONDITION in a build without CUDA.
absl::StatusOr<std::shared_ptr<StreamDevice>> CudaStreams(torch::Device device);

}  // namespace albef

#endif  // ALBEF_COMM_CUDA_STREAMS_H_
