// Time of one pretraining step by phase, and the memory it takes, on made-up inputs.
//
//   build/release/bin/pretrain_step_benchmark --config configs/Pretrain.yaml
//       --set batch_size=2 --set virtual_ranks=1 --set threads_per_worker=2
//
// Run it beside benchmarks/peer/step.py with the same batch, threads and device: both do a whole
// step, forward, backward and AdamW, of the same model. On a GPU the phases are those of the host,
// which queues work there; only the total is the GPU's time.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#ifdef ALBEF_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "benchmarks/executed_flops.h"
#include "benchmarks/median.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/format_absl.h"
#include "common/resources.h"
#include "model/initialization.h"
#include "worker/compute.h"
#include "worker/pretrain_step.h"
#include "worker/run_options.h"

namespace albef {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string device = "cpu";
  int64_t text_length = 25;
  int64_t vocab_size = 30522;
  int steps = 5;
  int warm_up = 1;
  std::string profile;
};

// Every caption fills the length; 15 % of its tokens are masked.
PretrainInputs MakeInputs(const AlbefOptions& model, int64_t batch_size, int64_t text_length,
                          torch::Device device) {
  const int64_t res = model.vision.image_res;
  const torch::Tensor ids_BT = torch::randint(model.bert.vocab_size / 2, model.bert.vocab_size,
                                              {batch_size, text_length}, torch::kLong);
  const int64_t tokens = batch_size * text_length;
  const int64_t masked = std::max<int64_t>(1, tokens * 15 / 100);
  const torch::Tensor index_N =
      std::get<0>((torch::randperm(tokens - 1).slice(0, 0, masked) + 1).sort());
  PretrainInputs inputs;
  inputs.image_BCHW = torch::randn({batch_size, 3, res, res}).to(device);
  inputs.input_ids_BT = ids_BT.to(device);
  inputs.attention_mask_BT = torch::ones_like(inputs.input_ids_BT);
  inputs.mlm_input_ids_BT =
      ids_BT.clone().flatten().index_fill_(0, index_N, 1).view_as(ids_BT).to(device);
  inputs.masked_index_N = index_N.to(device);
  inputs.masked_label_N = ids_BT.flatten().index_select(0, index_N).to(device);
  return inputs;
}

// What a member of several compares with the others at each gate, on top of the phases above.
void PrintStateHash(const TrainState& state) {
  const StateBlocks blocks(&state, {});
  const auto seconds = [&](int64_t block) {
    const auto start = std::chrono::steady_clock::now();
    blocks.Hash(block).item<int64_t>();
    return SecondsSince(start);
  };
  std::vector<double> each;
  for (int64_t block = 0; block < blocks.size(); ++block) each.push_back(seconds(block));
  fmt::print("hash of one of {} blocks of the state {:.2f} ms, of all {:.1f} ms\n", blocks.size(),
             1e3 * Median(each), 1e3 * std::accumulate(each.begin(), each.end(), 0.0));
}

// Peak of what tensors take on the CPU, told by LibTorch's allocator: what the process holds
// besides them, and what malloc keeps for later, is not in it.
class CpuTensorMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t, size_t total_allocated, size_t, c10::Device) override {
    peak_bytes_ = std::max(peak_bytes_, static_cast<int64_t>(total_allocated));
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  int64_t peak_bytes_ = 0;
};

void PrintTensorMemory(torch::Device device, const CpuTensorMemory& on_cpu) {
#ifdef ALBEF_CUDA
  if (device.is_cuda()) {
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
    fmt::print("peak of tensors on {} {} bytes, reserved for them {} bytes\n", device.str(),
               stats.allocated_bytes[kAll].peak, stats.reserved_bytes[kAll].peak);
    return;
  }
#endif
  fmt::print("peak of tensors on {} {} bytes\n", device.str(), on_cpu.peak_bytes());
}

// Runs `step` and writes down when each operator and kernel ran: a trace for
// benchmarks/profile_summary.py, chrome://tracing or Perfetto.
void RecordProfile(const std::string& path, torch::Device device,
                   const std::function<void()>& step) {
  namespace profiler = torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const profiler::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  std::set<ActivityType> activities = {ActivityType::CPU};
  if (device.is_cuda()) activities.insert(ActivityType::CUDA);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  step();
  profiler::disableProfiler()->save(path);
}

// Operations per second of the fastest of some large square products, in the precision of the run.
double MeasuredProductPeak(torch::Device device, torch::ScalarType type) {
  double peak = 0;
  for (const int64_t size : device.is_cuda() ? std::vector<int64_t>{4096, 8192}
                                             : std::vector<int64_t>{1024, 2048, 3072}) {
    const torch::Tensor a = torch::rand({size, size}, device).to(type);
    torch::Tensor product = at::mm(a, a);
    for (int i = 0; i < 5; ++i) {
      if (device.is_cuda()) torch::cuda::synchronize();
      const auto start = std::chrono::steady_clock::now();
      at::mm_out(product, a, a);
      if (device.is_cuda()) torch::cuda::synchronize();
      peak = std::max(peak, 2.0 * static_cast<double>(size * size * size) / SecondsSince(start));
    }
  }
  return peak;
}

int Run(const Arguments& arguments) {
  absl::StatusOr<RunConfig> config =
      LoadRunConfig(arguments.config, {.overrides = arguments.overrides, .check_files = false});
  if (!config.ok()) {
    spdlog::error("{}", config.status().message());
    return 64;
  }
  if (!config->bert_config.vocab_size) config->bert_config.vocab_size = arguments.vocab_size;
  const int threads = static_cast<int>(config->threads_per_worker.value_or(AvailableCores()));
  const int ranks = static_cast<int>(config->virtual_ranks.value_or(1));
  const absl::StatusOr<torch::Device> device =
      ConfigureCompute({.device = arguments.device,
                        .threads = threads,
                        .deterministic = config->deterministic.value_or(arguments.device == "cpu"),
                        .tf32 = config->precision == RunConfig::Precision::kTf32});
  if (!device.ok()) {
    spdlog::error("{}", device.status().message());
    return 64;
  }
  const auto cpu_tensors = std::make_shared<CpuTensorMemory>();
  std::optional<c10::DebugInfoGuard> watch;
  if (device->is_cpu()) watch.emplace(c10::DebugInfoKind::PROFILER_STATE, cpu_tensors);
  const AlbefOptions options = ModelOptions(*config);
  Albef model(options);
  InitializeRandomly(*model, config->seed);
  model->train();
  TrainState state(model, StateOptions(*config, *device));
  // α as after epoch 0: with the teacher's soft targets.
  PretrainStep step(&state,
                    {.seed = config->seed,
                     .virtual_ranks = ranks,
                     .batch_size = config->batch_size,
                     .steps_per_epoch = 1000,
                     .schedule = LearningRateOptions(*config),
                     .distillation = {.alpha = config->alpha, .ramp = false},
                     .gradient_order = ReductionOrder(*config)},
                    Place::Alone(ranks));
  const int64_t values = state.arena().layout().num_values();
  fmt::print(
      "model {} trainable values, {} virtual ranks of {} pairs, {} px, {} tokens, {}, {} threads\n",
      values, ranks, config->batch_size, config->image_res, arguments.text_length, device->str(),
      threads);
  torch::manual_seed(config->seed);  // of the inputs: the same in every run
  std::vector<PretrainStep::Report> reports;
  for (int i = 0; i < arguments.warm_up + arguments.steps; ++i) {
    const PretrainInputs inputs =
        MakeInputs(options, config->batch_size, arguments.text_length, *device);
    const auto report = step.Run([&](int64_t) -> absl::StatusOr<PretrainInputs> { return inputs; });
    if (!report.ok()) {
      spdlog::error("{}", report.status().message());
      return 1;
    }
    if (i >= arguments.warm_up) reports.push_back(*report);
  }
  watch.reset();  // the profiler takes its place
  // Not among the steps that are timed.
  const PretrainInputs inputs =
      MakeInputs(options, config->batch_size, arguments.text_length, *device);
  const auto one_more_step = [&] {
    (void)step.Run([&](int64_t) -> absl::StatusOr<PretrainInputs> { return inputs; });
    if (device->is_cuda()) torch::cuda::synchronize();
  };
  double flops = 0;
  {
    const ExecutedFlops counted;
    one_more_step();
    flops = counted.count();
  }
  if (!arguments.profile.empty()) RecordProfile(arguments.profile, *device, one_more_step);
  const auto line = [&](std::string_view name, const auto& seconds_of) {
    std::vector<double> seconds;
    for (const auto& report : reports) seconds.push_back(seconds_of(report));
    const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
    fmt::print("{:10} {:10.1f} ms  ({:.1f} to {:.1f})\n", name, 1e3 * Median(seconds), 1e3 * *least,
               1e3 * *most);
    return Median(seconds);
  };
  for (const Phase& phase : kPhases) {
    line(phase.name, [&](const auto& report) { return report.seconds.*phase.seconds; });
  }
  const double total = line("total", [](const auto& report) { return report.total_seconds; });
  const double gib = 1.0 / (1 << 30);
  fmt::print(
      "pairs/s    {:10.3f}\npeak resident memory {:.2f} GiB; arenas: {} gradient, 1 student, 1 "
      "teacher, 2 moments of {:.2f} GiB each, queues {:.2f} GiB\n",
      static_cast<double>(config->batch_size * ranks) / total,
      static_cast<double>(PeakResidentBytes()) * gib, step.num_gradient_arenas(),
      static_cast<double>(state.arena().layout().size() * 4) * gib,
      static_cast<double>(2 * options.embed_dim * options.queue_size * 4) * gib);
  PrintTensorMemory(*device, *cpu_tensors);
  const double peak =
      MeasuredProductPeak(*device, config->precision == RunConfig::Precision::kBf16 &&
                                           (device->is_cuda() || CpuMultipliesBf16())
                                       ? torch::kBFloat16
                                       : torch::kFloat);
  fmt::print(
      "matrix products {:.3f} GFLOP per pair, {:.1f} % of {:.1f} GFLOP/s (the fastest of large "
      "products alone)\n",
      flops / static_cast<double>(config->batch_size * ranks) * 1e-9, 100 * flops / total / peak,
      peak * 1e-9);
  PrintStateHash(state);
  const GateDecision& last = reports.back().decision;
  fmt::print("losses of the last step: mlm {:.3f} itc {:.3f} itm {:.3f}\n", last.loss_mlm,
             last.loss_itc, last.loss_itm);
  return 0;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Times pretraining steps by phase.");
  app.add_option("--config", arguments.config)->required();
  app.add_option("--set", arguments.overrides)->take_all()->allow_extra_args(false);
  app.add_option("--device", arguments.device)->capture_default_str();
  app.add_option("--text-length", arguments.text_length)->capture_default_str();
  app.add_option("--vocab-size", arguments.vocab_size, "where the configuration says auto")
      ->capture_default_str();
  app.add_option("--steps", arguments.steps)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--warm-up", arguments.warm_up)->capture_default_str();
  app.add_option("--profile", arguments.profile, "trace of one more step, JSON");
  CLI11_PARSE(app, argc, argv);
  return Run(arguments);
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
