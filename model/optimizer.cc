#include "model/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <torch/utils.h>

namespace albef {

AdamW::AdamW(const Arena& arena, const AdamWOptions& options)
    : options_(options),
      exp_avg_(arena.NewFlat()),
      exp_avg_sq_(arena.NewFlat()),
      step_(torch::zeros({}, arena.parameters().options().dtype(torch::kFloat32))) {}

void AdamW::Step(const Arena& arena, double lr, int64_t t) {
  TORCH_CHECK(t >= 1, "adamw: steps count from 1, got ", t);
  torch::NoGradGuard no_grad;
  step_.fill_(t);
  for (const ParameterGroup group : {ParameterGroup::kNoDecay, ParameterGroup::kDecay}) {
    const ArenaRange range = arena.layout().RangeOf(group);
    if (range.size == 0) continue;
    const auto slice = [&](const torch::Tensor& flat) {
      return std::vector{flat.narrow(0, range.offset, range.size)};
    };
    at::_fused_adamw_(slice(arena.parameters()), slice(arena.gradients()), slice(exp_avg_),
                      slice(exp_avg_sq_), /*max_exp_avg_sqs=*/{}, {step_}, lr, options_.beta1,
                      options_.beta2, group == ParameterGroup::kDecay ? options_.weight_decay : 0.0,
                      options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

torch::Tensor NonFiniteFlag(const torch::Tensor& gradients) {
  // The extremes carry any NaN or infinity, and need no temporary of the arena's size.
  const auto [min, max] = torch::aminmax(gradients);
  return torch::isfinite(min).logical_and_(torch::isfinite(max)).logical_not_();
}

void UpdateTeacher(const Arena& arena, double momentum) {
  torch::NoGradGuard no_grad;
  torch::Tensor teacher = arena.teacher();
  teacher.mul_(momentum).add_(arena.parameters(), 1 - momentum);
}

}  // namespace albef
