#include "model/activation_checkpointing.h"

#include <ATen/Context.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace albef {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

torch::Tensor StateOf(at::Generator generator) {
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void SetState(at::Generator generator, const torch::Tensor& state) {
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

// Puts a generator into `state`, and at the end where it was found.
class GeneratorRewind {
 public:
  GeneratorRewind(const at::Generator& generator, const torch::Tensor& state)
      : generator_(generator), found_(StateOf(generator)) {
    SetState(generator_, state);
  }
  ~GeneratorRewind() { SetState(generator_, found_); }

  GeneratorRewind(const GeneratorRewind&) = delete;
  GeneratorRewind& operator=(const GeneratorRewind&) = delete;

 private:
  const at::Generator generator_;
  const torch::Tensor found_;
};

// Where the graph of a block ends: takes the gradients of the block's inputs as they arrive there.
// Leaves would do, but might lay them out anew, and what reads them next could differ in a bit.
class InputGradients final : public Node {
 public:
  std::string name() const override { return "InputGradients"; }
  variable_list& taken() { return taken_; }

  // `inputs` cut off from the graph that made them.
  static variable_list CutOff(const variable_list& inputs,
                              const std::shared_ptr<InputGradients>& end) {
    variable_list cut;
    for (const torch::Tensor& input : inputs) {
      cut.push_back(input.detach());
      if (input.requires_grad()) {
        torch::autograd::create_gradient_edge(cut.back(), end);
      } else {
        end->add_input_metadata(undefined_input());
      }
    }
    end->taken_.resize(inputs.size());
    return cut;
  }

 protected:
  variable_list apply(variable_list&& gradients) override {
    taken_ = std::move(gradients);
    return {};
  }

 private:
  variable_list taken_;
};

template <typename NodeType, typename... Arguments>
std::shared_ptr<NodeType> NewNode(Arguments&&... arguments) {
  return std::shared_ptr<NodeType>(new NodeType(std::forward<Arguments>(arguments)...),
                                   torch::autograd::deleteNode);
}

// What autograd keeps of a checkpointed block.
class CheckpointedBlock final : public Node {
 public:
  CheckpointedBlock(const variable_list& inputs, Block block)
      : Node(torch::autograd::collect_next_edges(inputs)),
        block_(std::move(block)),
        generator_(at::globalContext().defaultGenerator(inputs.front().device())),
        generator_state_(StateOf(generator_)) {
    for (const torch::Tensor& input : inputs) inputs_.emplace_back(input, /*is_output=*/false);
  }

  std::string name() const override { return "CheckpointedBlock"; }

  void release_variables() override {
    block_ = nullptr;
    inputs_.clear();
  }

 protected:
  variable_list apply(variable_list&& gradients) override {
    TORCH_CHECK(block_, "activation checkpointing: a second backward through the same block");
    if (!gradients.front().defined()) return variable_list(inputs_.size());
    variable_list inputs;
    for (const SavedVariable& input : inputs_) inputs.push_back(input.unpack());
    const auto end = NewNode<InputGradients>();
    torch::Tensor output;
    {
      const torch::AutoGradMode recording(true);
      const GeneratorRewind rewind(generator_, generator_state_);
      output = block_(InputGradients::CutOff(inputs, end));
    }
    torch::autograd::backward({std::move(output)}, std::move(gradients));
    return std::move(end->taken());
  }

 private:
  Block block_;
  std::vector<SavedVariable> inputs_;
  const at::Generator generator_;
  const torch::Tensor generator_state_;
};

}  // namespace

torch::Tensor RunBlock(ActivationCheckpointing checkpointing,
                       const std::vector<torch::Tensor>& inputs, Block block) {
  if (checkpointing == ActivationCheckpointing::kNone || !torch::GradMode::is_enabled() ||
      !torch::autograd::any_variable_requires_grad(inputs)) {
    return block(inputs);
  }
  const auto node = NewNode<CheckpointedBlock>(inputs, block);
  // Recorded although nobody reads the record: kernels are chosen by it, and without it the bits
  // could differ from those of the second run. It holds what that will hold, one block's.
  torch::Tensor output =
      block(InputGradients::CutOff(inputs, NewNode<InputGradients>())).variable_data();
  torch::autograd::create_gradient_edge(output, node);
  return output;
}

}  // namespace albef
