// AdamW over the flat arenas (spec §5): two fused calls, one per range of the layout.
#ifndef ALBEF_MODEL_OPTIMIZER_H_
#define ALBEF_MODEL_OPTIMIZER_H_

#include <torch/types.h>

#include "model/arena.h"

namespace albef {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.02;  // of the parameters in ParameterGroup::kDecay
};

// First and second moments with the layout of an arena. Not thread-safe.
class AdamW {
 public:
  AdamW(const Arena& arena, const AdamWOptions& options);

  // p ← p·(1 − lr·wd) − lr·m̂/(√v̂ + eps), with bias corrections for step `t` ≥ 1. Asks for no host
  // wait. Padding stays zero, and shadows are brought up to date.
  void Step(const Arena& arena, double lr, int64_t t);

  const AdamWOptions& options() const { return options_; }
  const torch::Tensor& exp_avg() const { return exp_avg_; }
  const torch::Tensor& exp_avg_sq() const { return exp_avg_sq_; }

 private:
  AdamWOptions options_;
  torch::Tensor exp_avg_;
  torch::Tensor exp_avg_sq_;
  torch::Tensor step_;  // 0-d fp32 on the arena's device, as the fused kernel wants it
};

// Boolean scalar on the device: is any gradient infinite or NaN? Asks for no host wait.
torch::Tensor NonFiniteFlag(const torch::Tensor& gradients);

// Momentum teacher: θ_m ← m·θ_m + (1−m)·θ, in place, and its shadows with it (spec §3 step 4).
void UpdateTeacher(const Arena& arena, double momentum);

}  // namespace albef

#endif  // ALBEF_MODEL_OPTIMIZER_H_
