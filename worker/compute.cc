#include "worker/compute.h"

#include <ATen/Config.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#ifdef ALBEF_CUDA
#include <ATen/cuda/CUDAContextLight.h>
#endif
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <sstream>

#include "common/file.h"
#include "model/caching_cpu_allocator.h"

namespace albef {
namespace {

std::string CpuModel() {
  const absl::StatusOr<std::string> cpuinfo = ReadFile("/proc/cpuinfo");
  if (!cpuinfo.ok()) return "unknown";
  const size_t key = cpuinfo->find("model name");
  if (key == std::string::npos) return "unknown";
  const size_t begin = cpuinfo->find_first_not_of(": \t", key + 10);
  return cpuinfo->substr(begin, cpuinfo->find('\n', begin) - begin);
}

std::string GpuModel([[maybe_unused]] const torch::Device& device) {
#ifdef ALBEF_CUDA
  if (device.is_cuda()) return at::cuda::getDeviceProperties(device.index())->name;
#endif
  return "none";
}

}  // namespace

absl::StatusOr<torch::Device> ConfigureCompute(const ComputeOptions& options) {
  torch::Device device(torch::kCPU);
  if (options.device == "cuda") {
    if (!at::hasCUDA()) {
      return absl::InvalidArgumentError(
          "--device cuda: this build has no CUDA or the machine no usable GPU; configure with "
          "-DALBEF_CUDA=ON, check nvidia-smi, or use --device cpu");
    }
    const auto num_gpus = static_cast<int64_t>(torch::cuda::device_count());
    const int64_t index = num_gpus == 1 ? 0 : options.local_rank;
    if (index >= num_gpus) {
      return absl::InvalidArgumentError(fmt::format(
          "--device cuda: worker {} of this machine, which has {} GPUs: start one worker per GPU, "
          "and use virtual_ranks for more",
          options.local_rank, num_gpus));
    }
    device = torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(index));
    c10::impl::VirtualGuardImpl(torch::kCUDA).setDevice(device);
  } else if (options.device != "cpu") {
    return absl::InvalidArgumentError(
        fmt::format("--device {}: unknown device; use cpu or cuda", options.device));
  }
  CacheCpuMemory();
  at::set_num_threads(options.threads);
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(options.deterministic, /*warn_only=*/false);
  // Filling fresh memory costs a pass over every activation and guards against a mistake we do not
  // make.
  context.setDeterministicFillUninitializedMemory(false);
  context.setDeterministicCuDNN(options.deterministic);
  context.setBenchmarkCuDNN(!options.deterministic);
  context.setFloat32MatmulPrecision(options.tf32 ? "high" : "highest");
  context.setAllowTF32CuDNN(options.tf32);
  return device;
}

std::map<std::string, std::string> ComputeFacts(const torch::Device& device) {
  return {
      {"device", device.is_cuda() ? "cuda" : device.str()},
      {"gpu", GpuModel(device)},
      {"cpu", CpuModel()},
      {"cpu_capability", at::get_cpu_capability()},
      {"threads_per_worker", std::to_string(at::get_num_threads())},
      {"libtorch", TORCH_VERSION},
  };
}

}  // namespace albef
