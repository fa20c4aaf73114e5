// Blocks of a network of which backward finds the inputs alone and computes the rest again: less
// memory for one more forward pass, and the same bits.
//
// Forward runs a block as it would run anyway and drops what autograd saved in it. Backward puts
// the generator of the inputs' device where it was, so that dropout draws the same again, runs the
// block once more and goes backward through it in a backward of its own, which adds to the
// parameters' gradients where they lie. This reentrant way is the one that C++ has: the other,
// hooks on saved tensors, takes Python objects (at::SavedTensorDefaultHooks).
//
// A block may close over parameters and over tensors without gradient; whatever else has a gradient
// must be an input. A parameter must belong to one block, or to none: then its gradient is final
// once, as Arena::GradientWatch says, and is added up in the same order as without checkpointing.
//
// Safe from any thread that may use the generator.
#ifndef ALBEF_MODEL_ACTIVATION_CHECKPOINTING_H_
#define ALBEF_MODEL_ACTIVATION_CHECKPOINTING_H_

#include <torch/types.h>

#include <functional>
#include <vector>

#include "model/options.h"

namespace albef {

// Makes a new tensor of its inputs. Runs again in backward, on the thread that does that.
using Block = std::function<torch::Tensor(const std::vector<torch::Tensor>& inputs)>;

// `block(inputs)`; with kBlocks, and where autograd records and an input has a gradient,
// checkpointed.
torch::Tensor RunBlock(ActivationCheckpointing checkpointing,
                       const std::vector<torch::Tensor>& inputs, Block block);

}  // namespace albef

#endif  // ALBEF_MODEL_ACTIVATION_CHECKPOINTING_H_
