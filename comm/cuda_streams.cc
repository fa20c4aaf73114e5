#include "comm/cuda_streams.h"

#ifdef ALBEF_CUDA
#include <c10/core/Event.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>
#endif

namespace albef {
#ifdef ALBEF_CUDA
namespace {

// `body`'s result, with LibTorch's exceptions as statuses.
template <typename Body>
auto Guarded(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

class CudaEvent : public StreamEvent {
 public:
  explicit CudaEvent(const c10::cuda::CUDAStream& stream) { event_.record(stream.unwrap()); }

  absl::StatusOr<bool> Reached() override {
    return Guarded([&]() -> absl::StatusOr<bool> { return event_.query(); });
  }
  void Block(const c10::cuda::CUDAStream& stream) const { event_.block(stream.unwrap()); }

 private:
  c10::Event event_{c10::DeviceType::CUDA};
};

absl::StatusOr<std::unique_ptr<StreamEvent>> RecordOn(const c10::cuda::CUDAStream& stream) {
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<StreamEvent>> {
    return std::make_unique<CudaEvent>(stream);
  });
}

class CudaStream : public WorkStream {
 public:
  explicit CudaStream(const c10::cuda::CUDAStream& stream) : stream_(stream) {}

  NcclStream handle() const override { return stream_.stream(); }
  absl::Status WaitFor(StreamEvent& event) override {
    return Guarded([&] {
      static_cast<CudaEvent&>(event).Block(stream_);
      return absl::OkStatus();
    });
  }
  absl::StatusOr<std::unique_ptr<StreamEvent>> Record() override { return RecordOn(stream_); }

 private:
  const c10::cuda::CUDAStream stream_;
};

class CudaDevice : public StreamDevice {
 public:
  explicit CudaDevice(torch::Device device) : device_(device) {}

  c10::Device device() const override { return device_; }
  absl::Status Enter() override {
    return Guarded([&] {
      c10::cuda::set_device(device_.index());
      return absl::OkStatus();
    });
  }
  absl::StatusOr<std::unique_ptr<WorkStream>> NewStream() override {
    // Of LibTorch's pool, so that generation after generation takes no more of them. With priority:
    // whoever waits for a transfer waits with its whole GPU.
    return Guarded([&]() -> absl::StatusOr<std::unique_ptr<WorkStream>> {
      return std::make_unique<CudaStream>(
          c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_.index()));
    });
  }
  absl::StatusOr<std::unique_ptr<StreamEvent>> RecordCurrent() override {
    return RecordOn(c10::cuda::getCurrentCUDAStream(device_.index()));
  }

 private:
  const torch::Device device_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<StreamDevice>> CudaStreams(torch::Device device) {
  return std::make_shared<CudaDevice>(device);
}
#else

absl::StatusOr<std::shared_ptr<StreamDevice>> CudaStreams(torch::Device device) {
  return absl::FailedPreconditionError(device.str() +
                                       ": this build has no CUDA; configure with -DALBEF_CUDA=ON");
}
#endif

}  // namespace albef
