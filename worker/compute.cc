#include "worker/compute.h"

#include <ATen/Config.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <sstream>

#include "common/file.h"

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

}  // namespace

absl::StatusOr<torch::Device> ConfigureCompute(const ComputeOptions& options) {
  torch::Device device(torch::kCPU);
  if (options.device == "cuda") {
    if (!at::hasCUDA()) {
      return absl::InvalidArgumentError(
          "--device cuda: this build has no CUDA or the machine no usable GPU; configure with "
          "-DALBEF_CUDA=ON, check nvidia-smi, or use --device cpu");
    }
    device = torch::Device(torch::kCUDA, 0);
  } else if (options.device != "cpu") {
    return absl::InvalidArgumentError(
        fmt::format("--device {}: unknown device; use cpu or cuda", options.device));
  }
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
      {"device", device.str()},
      {"cpu", CpuModel()},
      {"cpu_capability", at::get_cpu_capability()},
      {"threads_per_worker", std::to_string(at::get_num_threads())},
      {"libtorch", TORCH_VERSION},
  };
}

}  // namespace albef
