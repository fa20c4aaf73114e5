#include "model/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <torch/utils.h>

#include <algorithm>

namespace albef {
namespace {

// What one operator leaves in the cache the next one finds there.
constexpr int64_t kCpuPiece = 1 << 20;

// Calls function(ArenaRange) for pieces of a range: on GPUs, where each call costs a launch, for
// all of it.
template <typename Function>
void ForEachPiece(const Arena& arena, ArenaRange range, const Function& function) {
  const int64_t piece = arena.parameters().is_cpu() ? kCpuPiece : std::max<int64_t>(range.size, 1);
  for (int64_t done = 0; done < range.size; done += piece) {
    function({.offset = range.offset + done, .size = std::min(piece, range.size - done)});
  }
}

}  // namespace

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
    const double decay = group == ParameterGroup::kDecay ? options_.weight_decay : 0.0;
    ForEachPiece(arena, arena.layout().RangeOf(group), [&](ArenaRange piece) {
      const auto slice = [&](const torch::Tensor& flat) {
        return std::vector{flat.narrow(0, piece.offset, piece.size)};
      };
      at::_fused_adamw_(slice(arena.parameters()), slice(arena.gradients()), slice(exp_avg_),
                        slice(exp_avg_sq_), /*max_exp_avg_sqs=*/{}, {step_}, lr, options_.beta1,
                        options_.beta2, decay, options_.eps,
                        /*amsgrad=*/false, /*maximize=*/false);
      arena.RefreshShadows(piece);
    });
  }
}

torch::Tensor NonFiniteFlag(const torch::Tensor& gradients) {
  // The extremes carry any NaN or infinity, and need no temporary of the arena's size.
  const auto [min, max] = torch::aminmax(gradients);
  return torch::isfinite(min).logical_and_(torch::isfinite(max)).logical_not_();
}

void UpdateTeacher(const Arena& arena, double momentum) {
  torch::NoGradGuard no_grad;
  ForEachPiece(arena, {.offset = 0, .size = arena.layout().size()}, [&](ArenaRange piece) {
    arena.teacher()
        .narrow(0, piece.offset, piece.size)
        .mul_(momentum)
        .add_(arena.parameters().narrow(0, piece.offset, piece.size), 1 - momentum);
    arena.RefreshTeacherShadows(piece);
  });
}

}  // namespace albef
