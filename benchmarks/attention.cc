// Attention on the CPU, forward and backward, by shape and type: this project's beside LibTorch's
// plain operators and its fused kernel, in turns.
//
//   build/release/bin/attention_benchmark [--threads N]
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/median.h"
#include "common/clock.h"
#include "model/attention.h"
#include "model/caching_cpu_allocator.h"
#include "model/dropout.h"

namespace albef {
namespace {

constexpr int kTurns = 9;

struct Shape {
  std::string_view name;
  int64_t batch, heads, queries, keys, width;
  double dropout;
};

using Implementation =
    std::function<torch::Tensor(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                                const torch::Tensor& value_BASd, double dropout)>;

torch::Tensor Ours(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                   const torch::Tensor& value_BASd, double dropout) {
  return Attention(query_BATd, key_BASd, value_BASd,
                   {.mask_B11S = std::nullopt, .dropout = dropout});
}

// Softmax in fp32, as this project's has it.
torch::Tensor Plain(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                    const torch::Tensor& value_BASd, double dropout) {
  const double scale = 1 / std::sqrt(static_cast<double>(query_BATd.size(3)));
  const torch::Tensor scores_BATS =
      at::matmul(query_BATd.to(at::kFloat) * scale, key_BASd.to(at::kFloat).transpose(2, 3));
  const torch::Tensor probs_BATS = Dropout(at::softmax(scores_BATS, 3), dropout, true);
  return at::matmul(probs_BATS, value_BASd.to(at::kFloat)).to(query_BATd.scalar_type());
}

// With dropout LibTorch takes its plain operators.
torch::Tensor LibTorchs(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                        const torch::Tensor& value_BASd, double dropout) {
  return at::scaled_dot_product_attention(query_BATd, key_BASd, value_BASd, {}, dropout);
}

struct Milliseconds {
  std::vector<double> forward, backward;
};

void Time(const Implementation& implementation, const Shape& shape, torch::ScalarType type,
          Milliseconds& times) {
  torch::manual_seed(1);
  const auto leaf = [&](int64_t rows) {
    return at::randn({shape.batch, rows, shape.heads * shape.width}).to(type).requires_grad_();
  };
  const torch::Tensor query = leaf(shape.queries), key = leaf(shape.keys), value = leaf(shape.keys);
  const torch::Tensor gradient = at::randn(query.sizes()).to(type);
  const auto start = std::chrono::steady_clock::now();
  const torch::Tensor out =
      MergeHeads(implementation(SplitHeads(query, shape.heads), SplitHeads(key, shape.heads),
                                SplitHeads(value, shape.heads), shape.dropout));
  times.forward.push_back(1e3 * SecondsSince(start));
  const auto turn = std::chrono::steady_clock::now();
  out.backward(gradient);
  times.backward.push_back(1e3 * SecondsSince(turn));
}

void Run() {
  // Batch, heads, queries, keys, width, dropout.
  const std::vector<Shape> shapes = {{"full size, image", 8, 12, 257, 257, 64, 0},
                                     {"full size, text to image", 8, 12, 75, 257, 64, 0.1},
                                     {"full size, text", 32, 12, 25, 25, 64, 0.1},
                                     {"quickstart, image", 16, 4, 65, 65, 32, 0},
                                     {"quickstart, text to image", 16, 4, 75, 65, 32, 0.1},
                                     {"quickstart, text", 64, 4, 25, 25, 32, 0.1}};
  const std::vector<std::pair<std::string_view, Implementation>> implementations = {
      {"ours", Ours}, {"plain operators", Plain}, {"LibTorch's fused", LibTorchs}};
  for (const torch::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : shapes) {
      std::vector<Milliseconds> times(implementations.size());
      for (int turn = 0; turn < kTurns; ++turn) {
        for (size_t i = 0; i < times.size(); ++i) {
          Time(implementations[i].second, shape, type, times[i]);
        }
      }
      fmt::print("{}, {} x {} heads, {} x {} x {}, dropout {}, {}: ms forward, backward\n",
                 shape.name, shape.batch, shape.heads, shape.queries, shape.keys, shape.width,
                 shape.dropout, c10::toString(type));
      for (size_t i = 0; i < times.size(); ++i) {
        fmt::print("  {:17} {:7.2f} {:7.2f}\n", implementations[i].first, Median(times[i].forward),
                   Median(times[i].backward));
      }
    }
  }
}

int Main(int argc, char** argv) {
  int threads = 1;
  CLI::App app("Times attention on the CPU.");
  app.add_option("--threads", threads)->check(CLI::PositiveNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  CacheCpuMemory();
  Run();
  return 0;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
