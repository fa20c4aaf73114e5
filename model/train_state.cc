#include "model/train_state.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <map>
#include <string>
#include <utility>

#include "model/tensor_io.h"

namespace albef {
namespace {

constexpr std::string_view kIteration = "counters.iteration";
constexpr std::string_view kUpdates = "counters.updates";
constexpr std::string_view kEmaUpdates = "counters.ema_updates";

Albef Moved(Albef model, const TrainStateOptions& options) {
  MoveTo(*model, options.device, options.dtype);
  return model;
}

int64_t ScalarOf(const TensorView& view) { return CopyTensor(view).item<int64_t>(); }

}  // namespace

void MoveTo(torch::nn::Module& module, torch::Device device, torch::ScalarType dtype) {
  torch::NoGradGuard no_grad;
  const auto move = [&](torch::Tensor tensor) {
    tensor.set_data(tensor.to(device, tensor.is_floating_point() ? dtype : tensor.scalar_type()));
  };
  for (const torch::Tensor& parameter : module.parameters()) move(parameter);
  for (const torch::Tensor& buffer : module.buffers()) move(buffer);
}

TrainState::TrainState(Albef model, const TrainStateOptions& options)
    : options_(options),
      model_(Moved(std::move(model), options)),
      arena_(*model_),
      adamw_(arena_, options.adamw),
      queue_(model_->image_queue_EQ, model_->text_queue_EQ, model_->queue_ptr) {
  if (!options.bf16_products) return;
  TORCH_CHECK(options.dtype == torch::kFloat32, "bf16 products need parameters in float, got ",
              options.dtype);
  arena_.AddShadows();
  model_->BindShadows([&](const torch::Tensor& parameter) { return arena_.ShadowOf(parameter); });
}

void TrainState::Prologue() {
  arena_.CheckAliasing();
  torch::NoGradGuard no_grad;
  model_->temperature.clamp_(options_.min_temperature, options_.max_temperature);
  if (counters_.ema_updates > counters_.updates) return;
  UpdateTeacher(arena_, options_.momentum);
  counters_.ema_updates = counters_.updates + 1;
}

void TrainState::Commit(double lr, const torch::Tensor& image_feat_m_NE,
                        const torch::Tensor& text_feat_m_NE) {
  adamw_.Step(arena_, lr, counters_.updates + 1);
  queue_.Enqueue(image_feat_m_NE, text_feat_m_NE);
  ++counters_.updates;
  ++counters_.iteration;
}

std::vector<StateEntry> TrainState::State() const {
  std::vector<StateEntry> state;
  for (StateEntry& entry : StateDict(*model_)) {
    if (!entry.tied_to.empty()) continue;
    entry.tensor = entry.tensor.detach();
    state.push_back(std::move(entry));
  }
  for (const auto& [prefix, flat] :
       {std::pair("exp_avg.", &adamw_.exp_avg()), std::pair("exp_avg_sq.", &adamw_.exp_avg_sq())}) {
    for (const LayoutEntry& entry : arena_.layout().entries()) {
      state.push_back({prefix + entry.key, Arena::View(*flat, entry), ""});
    }
  }
  for (const auto& [key, value] :
       {std::pair(kIteration, counters_.iteration), std::pair(kUpdates, counters_.updates),
        std::pair(kEmaUpdates, counters_.ema_updates)}) {
    state.push_back({std::string(key), torch::tensor(value, torch::kInt64), ""});
  }
  return state;
}

absl::Status TrainState::Restore(std::span<const NamedTensor> tensors, std::string_view source) {
  std::map<std::string_view, const TensorView*> by_name;
  for (const NamedTensor& tensor : tensors) {
    if (!by_name.emplace(tensor.name, &tensor.tensor).second) {
      return absl::InvalidArgumentError(fmt::format("{}: {} is there twice", source, tensor.name));
    }
  }
  const std::vector<StateEntry> state = State();
  std::vector<std::pair<torch::Tensor, const TensorView*>> copies;
  for (const StateEntry& entry : state) {
    const auto found = by_name.find(entry.key);
    if (found == by_name.end()) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {} is missing; it holds no training state of this model", source, entry.key));
    }
    const TensorView& view = *found->second;
    if (torch::IntArrayRef(view.shape) != entry.tensor.sizes() ||
        ToScalarType(view.dtype) != entry.tensor.scalar_type()) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {} is {} [{}] where the model has {} [{}]; the model's sizes in the config must be "
          "those of the file",
          source, entry.key, c10::toString(ToScalarType(view.dtype)), fmt::join(view.shape, ", "),
          c10::toString(entry.tensor.scalar_type()), fmt::join(entry.tensor.sizes(), ", ")));
    }
    copies.emplace_back(entry.tensor, &view);
    by_name.erase(found);
  }
  if (!by_name.empty()) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: {} has no place in the training state of this model", source, by_name.begin()->first));
  }

  const auto scalar = [&](std::string_view key) {
    for (const NamedTensor& tensor : tensors) {
      if (tensor.name == key) return ScalarOf(tensor.tensor);
    }
    return int64_t{-1};  // not reached: all names were found above
  };
  const StepCounters counters{.iteration = scalar(kIteration),
                              .updates = scalar(kUpdates),
                              .ema_updates = scalar(kEmaUpdates)};
  if (counters.iteration < 0 || counters.updates < 0 || counters.ema_updates < counters.updates ||
      counters.ema_updates > counters.updates + 1) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: impossible counters: iteration {}, updates {}, ema_updates {}; the file is damaged",
        source, counters.iteration, counters.updates, counters.ema_updates));
  }
  if (const int64_t pointer = scalar("queue_ptr"); pointer < 0 || pointer >= queue_.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: queue_ptr is {}, outside the queue of {} columns; the file is damaged",
                    source, pointer, queue_.size()));
  }

  torch::NoGradGuard no_grad;
  for (auto& [target, view] : copies) target.copy_(CopyTensor(*view));
  StartFrom(counters);
  return absl::OkStatus();
}

void TrainState::StartFrom(const StepCounters& counters) {
  queue_.ReadPointer();
  counters_ = counters;
  arena_.RefreshShadows();
  arena_.RefreshTeacherShadows();
}

}  // namespace albef
