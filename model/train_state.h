// Everything that one committed step leaves to the next: student, teacher, moments, queues and
// counters (design §4, State), and the two halves of a step that change it.
//
//   Prologue();                       // any number of times
//   … forward, backward into arena().gradients(), reduction, gate …
//   Commit(lr, image, text);  or  Skip();
//
// Shadows in bf16 follow whatever changes here, except that the one of τ, which no product reads,
// misses its clamp.
//
// Nothing here communicates or waits for the device, except Restore(). Not thread-safe.
#ifndef ALBEF_MODEL_TRAIN_STATE_H_
#define ALBEF_MODEL_TRAIN_STATE_H_

#include <torch/nn/module.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "formats/tensor.h"
#include "model/albef.h"
#include "model/arena.h"
#include "model/feature_queue.h"
#include "model/optimizer.h"
#include "model/state_dict.h"

namespace albef {

// Places of a run. They are part of checkpoints and digests.
struct StepCounters {
  int64_t iteration = 0;    // attempts that reached the gate, committed or skipped
  int64_t updates = 0;      // committed steps
  int64_t ema_updates = 0;  // momentum updates of the teacher; updates or updates + 1

  bool operator==(const StepCounters&) const = default;
};

struct TrainStateOptions {
  double momentum = 0.995;  // m of the teacher
  AdamWOptions adamw = {};
  // τ is clamped into this range before every use (spec §3 step 1).
  double min_temperature = 0.001;
  double max_temperature = 0.5;
  torch::Device device = torch::kCPU;
  torch::ScalarType dtype = torch::kFloat32;  // of all floating-point state
  // The encoders multiply in bf16, with shadows of the parameters (model/mixed_linear.h); all of
  // the state is as without. `dtype` must be fp32.
  bool bf16_products = false;
};

// Moves the floating-point tensors of a module to `dtype` and all tensors to `device`
// (Module::to(dtype) would turn integer buffers into floating-point ones as well).
void MoveTo(torch::nn::Module& module, torch::Device device, torch::ScalarType dtype);

class TrainState {
 public:
  // Takes the model over: moves it to device and dtype, then builds the arenas.
  TrainState(Albef model, const TrainStateOptions& options);

  // Clamps τ; unless that was done since the last committed step, moves the teacher. Idempotent.
  void Prologue();

  // Optimizer step with arena().gradients(), which must hold the mean over all virtual ranks, and
  // both queues, which take the teacher features (N,E) of all virtual ranks in their order.
  void Commit(double lr, const torch::Tensor& image_feat_m_NE, const torch::Tensor& text_feat_m_NE);

  // The iteration is over without an update.
  void Skip() { ++counters_.iteration; }

  // All that is checkpointed and digested, in this order: the state dict, each tensor at its first
  // name only; exp_avg.<parameter>, then exp_avg_sq.<parameter>, in layout order;
  // counters.{iteration,updates,ema_updates} as int64 scalars. Contiguous views without padding,
  // valid until the state changes.
  std::vector<StateEntry> State() const;

  // Takes over a state with exactly the names, types and shapes of State(), in any order. What does
  // not fit is INVALID_ARGUMENT that names `source` and the tensor, and then nothing has changed.
  absl::Status Restore(std::span<const NamedTensor> tensors, std::string_view source);

  // After weights and queues were loaded into the model: goes on from there, shadows included.
  void StartFrom(const StepCounters& counters);

  const Albef& model() const { return model_; }
  Arena& arena() { return arena_; }
  const Arena& arena() const { return arena_; }
  const AdamW& adamw() const { return adamw_; }
  const FeatureQueue& queue() const { return queue_; }
  const StepCounters& counters() const { return counters_; }
  const TrainStateOptions& options() const { return options_; }

 private:
  TrainStateOptions options_;
  Albef model_;
  Arena arena_;
  AdamW adamw_;
  FeatureQueue queue_;
  StepCounters counters_;
};

}  // namespace albef

#endif  // ALBEF_MODEL_TRAIN_STATE_H_
