// One flat tensor each for the trainable parameters, their gradients and the momentum teacher, with
// the module's tensors as views into them (design §4, Arena).
//
// The optimizer step, the momentum update, zeroing and reduction are then single passes over
// memory. Teacher parameters lie at the offsets of their student counterparts, so that the momentum
// update is one pass over the whole arena; the slots of parameters without a counterpart (τ,
// itm_head) hold values that nobody reads and that belong to no checkpoint or digest. Padding is
// zero everywhere.
//
// In bf16 runs two more flat tensors of the same layout hold the *shadows* of parameters and
// teacher, their values rounded to bf16 (mixed_linear.h). They are derived: no part of checkpoints,
// digests or transfers.
//
// Built last, after the module's device and dtype are final: Module::to() would silently move its
// parameters out, and Module::zero_grad() would drop the gradient views. CheckAliasing() finds out.
// Not thread-safe.
#ifndef ALBEF_MODEL_ARENA_H_
#define ALBEF_MODEL_ARENA_H_

#include <torch/nn/module.h>

#include <functional>
#include <string>
#include <vector>

#include "model/layout.h"

namespace albef {

// Trainable parameters in the order of named_parameters(), tied ones at their first name.
std::vector<ParameterShape> TrainableShapes(const torch::nn::Module& module);

// "visual_encoder_m.norm.weight" → "visual_encoder.norm.weight"; empty where the first component
// does not end in "_m".
std::string StudentKey(std::string_view teacher_key);

class Arena {
 public:
  // While it lives, tells of every parameter whose gradient a backward has added all it will to: on
  // the thread that runs backward, once per backward and parameter, tied ones as one; not of those
  // that the loss does not reach. The arena must outlive it, and have no other watch meanwhile.
  class GradientWatch {
   public:
    using Callback = std::function<void(const LayoutEntry&)>;

    GradientWatch(const Arena& arena, Callback on_final);
    ~GradientWatch();

    GradientWatch(const GradientWatch&) = delete;
    GradientWatch& operator=(const GradientWatch&) = delete;

   private:
    const Arena& arena_;
  };

  // Moves every parameter of `module`, with its value, into new flat tensors. Parameters that
  // require no gradient must be the teacher's. All of one device and dtype.
  explicit Arena(torch::nn::Module& module);

  const Layout& layout() const { return layout_; }

  // Flat, layout().size() elements each.
  const torch::Tensor& parameters() const { return parameters_; }
  const torch::Tensor& teacher() const { return teacher_; }
  const torch::Tensor& gradients() const { return gradients_; }

  // A zeroed flat tensor of the arena's size, dtype and device.
  torch::Tensor NewFlat() const;

  // Lets the next backward accumulate into `flat` (from NewFlat()), so that the gradients of
  // several virtual ranks can be kept without a copy.
  void BindGradients(const torch::Tensor& flat);

  // Makes the shadows. A second call changes nothing.
  void AddShadows();

  // Rounds the parameters' values, or the teacher's, into their shadows, all or those of a range;
  // does nothing without shadows. Whoever writes to parameters() or teacher() calls it afterwards.
  void RefreshShadows() const { RefreshShadows(Whole()); }
  void RefreshShadows(ArenaRange range) const;
  void RefreshTeacherShadows() const { RefreshTeacherShadows(Whole()); }
  void RefreshTeacherShadows(ArenaRange range) const;

  // The shadow of one of the module's parameters, student or teacher, in its shape; TORCH_CHECK
  // failure without shadows or for a tensor that is no parameter.
  torch::Tensor ShadowOf(const torch::Tensor& parameter) const;

  // The stretch of `flat` that belongs to `entry`, in the parameter's shape.
  static torch::Tensor View(const torch::Tensor& flat, const LayoutEntry& entry);

  // TORCH_CHECK failure that names the parameter whose value or gradient left the arena.
  void CheckAliasing() const;

 private:
  struct Bound {
    torch::Tensor parameter;
    const LayoutEntry* entry;
  };

  ArenaRange Whole() const { return {.offset = 0, .size = layout_.size()}; }

  Layout layout_;
  std::vector<Bound> students_;
  std::vector<Bound> teachers_;
  torch::Tensor parameters_;
  torch::Tensor teacher_;
  torch::Tensor gradients_;
  torch::Tensor shadows_;  // bf16, undefined without AddShadows()
  torch::Tensor teacher_shadows_;
};

}  // namespace albef

#endif  // ALBEF_MODEL_ARENA_H_
