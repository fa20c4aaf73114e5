// The device that an NcclCommunicator works on, as far as it needs one: streams of work and points
// in them. CUDA in earnest (comm/cuda_streams.h), host memory in the tests.
//
// Errors are the device's, INTERNAL, and usually final.
#ifndef ALBEF_COMM_STREAM_DEVICE_H_
#define ALBEF_COMM_STREAM_DEVICE_H_

#include <c10/core/Device.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/nccl_api.h"

namespace albef {

// A point in a stream: reached once all work queued before it is done. Host and other streams that
// go on after it was seen reached see what that work has written. For one thread at a time.
class StreamEvent {
 public:
  virtual ~StreamEvent() = default;
  virtual absl::StatusOr<bool> Reached() = 0;
};

// A queue of work on the device, for one thread at a time.
class WorkStream {
 public:
  virtual ~WorkStream() = default;
  virtual NcclStream handle() const = 0;
  // What is queued from now on starts after `event`, which must be of the same device.
  virtual absl::Status WaitFor(StreamEvent& event) = 0;
  virtual absl::StatusOr<std::unique_ptr<StreamEvent>> Record() = 0;
};

// May be used by several threads.
class StreamDevice {
 public:
  virtual ~StreamDevice() = default;
  virtual c10::Device device() const = 0;
  // Makes it the device of the calling thread.
  virtual absl::Status Enter() = 0;
  virtual absl::StatusOr<std::unique_ptr<WorkStream>> NewStream() = 0;
  // Where the calling thread's current stream is now.
  virtual absl::StatusOr<std::unique_ptr<StreamEvent>> RecordCurrent() = 0;
};

}  // namespace albef

#endif  // ALBEF_COMM_STREAM_DEVICE_H_
