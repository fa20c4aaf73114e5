#include "model/initialization.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/utils.h>

#include <cmath>
#include <string_view>

#include "common/random.h"
#include "model/arena.h"

namespace albef {
namespace {

// The authors' vision transformer draws from a normal distribution truncated at ±100 standard
// deviations, which is a normal one.
constexpr double kVisionDeviation = 0.02;

// PyTorch's default for linear layers and convolutions, weight and bias.
bool HasDefaultLaw(std::string_view key) {
  return key.starts_with("visual_encoder.patch_embed.proj.") || key.starts_with("vision_proj.") ||
         key.starts_with("text_proj.") || key.starts_with("itm_head.");
}

// Inputs of one output of the linear layer or convolution that `weight` belongs to.
int64_t FanIn(const torch::Tensor& weight) { return weight.numel() / weight.size(0); }

int64_t IntegerRoot(int64_t square) {
  const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(square))));
  return root * root == square ? root : -1;
}

}  // namespace

void InitializeRandomly(AlbefImpl& model, uint64_t seed) {
  torch::NoGradGuard no_grad;
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(
      RandomStream(seed, RandomPurpose::kInitialWeights, 0).Next32());
  // Always fp32 values from the CPU, whatever the model's dtype and device.
  const auto draw = [&](const torch::Tensor& target, auto&& fill) {
    torch::Tensor values = torch::empty(target.sizes(), torch::kFloat32);
    fill(values);
    torch::Tensor(target).copy_(values);
  };

  const auto parameters = model.named_parameters();
  for (const auto& item : parameters) {
    const std::string& key = item.key();
    const torch::Tensor& parameter = item.value();
    if (!parameter.requires_grad()) continue;
    if (key == "temp") {
      draw(parameter, [&](torch::Tensor& x) { x.fill_(model.options().temperature); });
    } else if (HasDefaultLaw(key)) {
      const std::string weight = key.substr(0, key.rfind('.')) + ".weight";
      const double bound = 1 / std::sqrt(static_cast<double>(FanIn(parameters[weight])));
      draw(parameter, [&](torch::Tensor& x) { x.uniform_(-bound, bound, generator); });
    } else if (key.ends_with("bias")) {
      draw(parameter, [](torch::Tensor& x) { x.zero_(); });
    } else if (parameter.dim() == 1) {
      draw(parameter, [](torch::Tensor& x) { x.fill_(1); });  // LayerNorm
    } else {
      const double deviation = key.starts_with("visual_encoder.")
                                   ? kVisionDeviation
                                   : model.options().bert.initializer_range;
      draw(parameter, [&](torch::Tensor& x) { x.normal_(0, deviation, generator); });
    }
  }
  for (const torch::Tensor& queue_EQ : {model.image_queue_EQ, model.text_queue_EQ}) {
    draw(queue_EQ, [&](torch::Tensor& x) {
      x.normal_(0, 1, generator);
      x.div_(x.norm(2, 0, /*keepdim=*/true).clamp_min(1e-12));
    });
  }
  model.queue_ptr.zero_();
  CopyStudentToTeacher(model);
}

void CopyStudentToTeacher(AlbefImpl& model) {
  torch::NoGradGuard no_grad;
  const auto parameters = model.named_parameters();
  for (const auto& item : parameters) {
    const std::string student = StudentKey(item.key());
    if (!student.empty()) torch::Tensor(item.value()).copy_(parameters[student]);
  }
}

torch::Tensor InterpolatePositions(const torch::Tensor& positions_1PD, int64_t num_tokens) {
  const int64_t from = IntegerRoot(positions_1PD.size(1) - 1);
  const int64_t to = IntegerRoot(num_tokens - 1);
  TORCH_CHECK(positions_1PD.dim() == 3 && positions_1PD.size(0) == 1 && from > 0 && to > 0,
              "position embeddings: expected (1, 1+g², D) and 1+g² tokens, got ",
              positions_1PD.sizes(), " and ", num_tokens, " tokens");
  if (from == to) return positions_1PD;
  const int64_t width = positions_1PD.size(2);
  const torch::Tensor grid_1DHW =
      positions_1PD.slice(1, 1).reshape({1, from, from, width}).permute({0, 3, 1, 2}).contiguous();
  const torch::Tensor resized_1DHW =
      at::upsample_bicubic2d(grid_1DHW, {to, to}, /*align_corners=*/false);
  return torch::cat({positions_1PD.slice(1, 0, 1),
                     resized_1DHW.permute({0, 2, 3, 1}).reshape({1, to * to, width})},
                    1);
}

}  // namespace albef
