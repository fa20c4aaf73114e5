#include "model/official_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "common/status_macros.h"
#include "formats/pth.h"
#include "model/tensor_io.h"
#include "model/weights_file.h"

namespace albef {
namespace {

// Puts file and place in front of what a PickleValue said.
absl::Status At(const std::filesystem::path& path, std::string_view place,
                const absl::Status& status) {
  if (status.ok()) return status;
  const absl::string_view message = status.message();
  return absl::InvalidArgumentError(
      fmt::format("{}: {}: {}; expected a training checkpoint of the authors' code", path.string(),
                  place, std::string_view(message.data(), message.size())));
}

// Optimizer state of one parameter.
struct Moments {
  const LayoutEntry* entry;
  torch::Tensor exp_avg;
  torch::Tensor exp_avg_sq;
};

struct OptimizerState {
  int64_t updates = 0;
  std::vector<Moments> moments;
};

// An int, or since PyTorch 1.12 a 0-d tensor.
absl::StatusOr<int64_t> StepCount(const PickleValue& value) {
  if (const auto tensor = value.AsTensor(); tensor.ok()) {
    const torch::Tensor step = CopyTensor((*tensor)->view);
    if (step.numel() == 1) return static_cast<int64_t>(step.item<double>());
    return absl::InvalidArgumentError(
        fmt::format("a tensor of shape [{}] is no step counter", fmt::join(step.sizes(), ", ")));
  }
  return value.AsInt();
}

absl::StatusOr<torch::Tensor> Moment(const PickleValue& state, const char* name,
                                     const LayoutEntry& entry) {
  ASSIGN_OR_RETURN(const PickleValue value, state.Find(name));
  ASSIGN_OR_RETURN(const PickleTensor* tensor, value.AsTensor());
  if (tensor->view.shape != entry.shape) {
    return absl::InvalidArgumentError(fmt::format("{} has shape [{}] where {} has [{}]", name,
                                                  fmt::join(tensor->view.shape, ", "), entry.key,
                                                  fmt::join(entry.shape, ", ")));
  }
  return CopyTensor(tensor->view);
}

absl::StatusOr<OptimizerState> ReadOptimizer(const PickleValue& optimizer, const Layout& layout) {
  ASSIGN_OR_RETURN(const PickleValue groups, optimizer.Find("param_groups"));
  ASSIGN_OR_RETURN(const PickleValue states, optimizer.Find("state"));
  std::vector<int64_t> indices;
  std::vector<size_t> sizes;
  for (const PickleValue& group : groups.elements()) {
    ASSIGN_OR_RETURN(const PickleValue params, group.Find("params"));
    for (const PickleValue& param : params.elements()) {
      ASSIGN_OR_RETURN(const int64_t index, param.AsInt());
      indices.push_back(index);
    }
    sizes.push_back(params.elements().size());
  }
  std::vector<size_t> expected(2);
  for (const LayoutEntry& entry : layout.entries()) {
    ++expected[entry.group == ParameterGroup::kDecay ? 1 : 0];
  }
  if (sizes != expected) {
    return absl::InvalidArgumentError(
        fmt::format("groups of [{}] parameters where the model has [{}] (without and with decay)",
                    fmt::join(sizes, ", "), fmt::join(expected, ", ")));
  }
  OptimizerState result;
  if (states.items().empty()) return result;  // no step was made yet
  for (size_t i = 0; i < indices.size(); ++i) {
    const LayoutEntry& entry = layout.entries()[i];
    ASSIGN_OR_RETURN(const PickleValue state, states.Find(indices[i]));
    ASSIGN_OR_RETURN(const PickleValue step, state.Find("step"));
    ASSIGN_OR_RETURN(const int64_t updates, StepCount(step));
    if (updates < 0 || (i > 0 && updates != result.updates)) {
      return absl::InvalidArgumentError(fmt::format("{} has made {} steps, {} has made {}",
                                                    entry.key, updates, layout.entries()[0].key,
                                                    result.updates));
    }
    result.updates = updates;
    ASSIGN_OR_RETURN(torch::Tensor exp_avg, Moment(state, "exp_avg", entry));
    ASSIGN_OR_RETURN(torch::Tensor exp_avg_sq, Moment(state, "exp_avg_sq", entry));
    result.moments.push_back({&entry, std::move(exp_avg), std::move(exp_avg_sq)});
  }
  return result;
}

// Tensors of a state as the authors' files hold them: on the CPU, floating point as fp32. What had
// to be converted is kept in `storage`.
PickleValue ToPickle(const torch::Tensor& tensor, std::vector<torch::Tensor>& storage) {
  torch::NoGradGuard no_grad;
  storage.push_back(
      tensor.detach()
          .to(torch::kCPU, tensor.is_floating_point() ? torch::kFloat32 : tensor.scalar_type())
          .contiguous());
  PickleTensor value;
  value.view = ViewTensor(storage.back());
  return PickleValue::Tensor(std::move(value));
}

PickleValue ModelDict(const TrainState& state, std::vector<torch::Tensor>& storage) {
  std::vector<PickleValue::Item> items;
  std::map<std::string, PickleValue> by_key;  // the same bytes under both names: they stay tied
  for (const StateEntry& entry : StateDict(*state.model())) {
    const PickleValue value =
        entry.tied_to.empty() ? ToPickle(entry.tensor, storage) : by_key.at(entry.tied_to);
    by_key.emplace(entry.key, value);
    items.emplace_back(entry.key, value);
  }
  return PickleValue::OrderedDict(std::move(items));
}

PickleValue OptimizerDict(const TrainState& state, const OfficialExportOptions& options,
                          std::vector<torch::Tensor>& storage) {
  const std::vector<LayoutEntry>& entries = state.arena().layout().entries();
  const AdamW& adamw = state.adamw();
  std::vector<PickleValue::Item> states;
  std::vector<PickleValue> params[2];
  for (size_t i = 0; i < entries.size(); ++i) {
    const LayoutEntry& entry = entries[i];
    states.emplace_back(
        i, PickleValue::Dict(
               {{"step", state.counters().updates},
                {"exp_avg", ToPickle(Arena::View(adamw.exp_avg(), entry), storage)},
                {"exp_avg_sq", ToPickle(Arena::View(adamw.exp_avg_sq(), entry), storage)}}));
    params[entry.group == ParameterGroup::kDecay ? 1 : 0].emplace_back(i);
  }
  std::vector<PickleValue> groups;
  for (const ParameterGroup group : {ParameterGroup::kNoDecay, ParameterGroup::kDecay}) {
    const bool decays = group == ParameterGroup::kDecay;
    groups.push_back(PickleValue::Dict(
        {{"weight_decay", decays ? adamw.options().weight_decay : 0.0},
         {"lr", options.lr},
         {"betas", PickleValue::Tuple({adamw.options().beta1, adamw.options().beta2})},
         {"eps", adamw.options().eps},
         {"amsgrad", false},
         {"initial_lr", options.config.optimizer.lr},
         {"params", PickleValue::List(std::move(params[decays ? 1 : 0]))}}));
  }
  // Before the first step PyTorch has no state at all.
  if (state.counters().updates == 0) states.clear();
  return PickleValue::Dict({{"state", PickleValue::Dict(std::move(states))},
                            {"param_groups", PickleValue::List(std::move(groups))}});
}

// The attributes of timm's CosineLRScheduler as the authors build it; one value per group in lists.
PickleValue SchedulerDict(const RunConfig& config) {
  const RunConfig::Schedule& schedule = config.schedular;
  const auto per_group = [](double value) { return PickleValue::List({value, value}); };
  const double stair = schedule.warmup_epochs > 0 ? (config.optimizer.lr - schedule.warmup_lr) /
                                                        static_cast<double>(schedule.warmup_epochs)
                                                  : 1.0;
  return PickleValue::Dict({{"param_group_field", "lr"},
                            {"_initial_param_group_field", "initial_lr"},
                            {"base_values", per_group(config.optimizer.lr)},
                            {"metric", PickleValue()},
                            {"noise_range_t", PickleValue()},
                            {"noise_pct", 0.67},
                            {"noise_type", "normal"},
                            {"noise_std", 1.0},
                            {"noise_seed", 42},
                            {"t_initial", schedule.epochs},
                            {"t_mul", 1.0},
                            {"lr_min", schedule.min_lr},
                            {"decay_rate", schedule.decay_rate},
                            {"cycle_limit", 1},
                            {"warmup_t", schedule.warmup_epochs},
                            {"warmup_lr_init", schedule.warmup_lr},
                            {"warmup_prefix", true},
                            {"t_in_epochs", true},
                            {"warmup_steps", per_group(stair)}});
}

// The authors' keys; they keep their config for the record only.
PickleValue ConfigDict(const RunConfig& config) {
  std::vector<PickleValue> files;
  for (const std::string& file : config.train_file) files.emplace_back(file);
  const RunConfig::Schedule& schedule = config.schedular;
  return PickleValue::Dict(
      {{"train_file", PickleValue::List(std::move(files))},
       {"image_res", config.image_res},
       {"vision_width", config.vision_width},
       {"embed_dim", config.embed_dim},
       {"batch_size", config.batch_size},
       {"temp", config.temp},
       {"mlm_probability", config.mlm_probability},
       {"queue_size", config.queue_size},
       {"momentum", config.momentum},
       {"alpha", config.alpha},
       {"optimizer", PickleValue::Dict({{"opt", config.optimizer.opt},
                                        {"lr", config.optimizer.lr},
                                        {"weight_decay", config.optimizer.weight_decay}})},
       {"schedular", PickleValue::Dict({{"sched", schedule.sched},
                                        {"lr", schedule.lr},
                                        {"epochs", schedule.epochs},
                                        {"min_lr", schedule.min_lr},
                                        {"decay_rate", schedule.decay_rate},
                                        {"warmup_lr", schedule.warmup_lr},
                                        {"warmup_epochs", schedule.warmup_epochs},
                                        {"cooldown_epochs", schedule.cooldown_epochs}})}});
}

}  // namespace

absl::StatusOr<OfficialProgress> ImportOfficialCheckpoint(const std::filesystem::path& path,
                                                          TrainState& state,
                                                          const OfficialImportOptions& options) {
  ASSIGN_OR_RETURN(PthFile opened, PthFile::Open(path));
  const auto file = std::make_shared<const PthFile>(std::move(opened));
  const auto model = file->root().Find("model");
  RETURN_IF_ERROR(At(path, "model", model.status()));
  const auto optimizer = file->root().Find("optimizer");
  RETURN_IF_ERROR(At(path, "optimizer", optimizer.status()));
  auto moments = ReadOptimizer(*optimizer, state.arena().layout());
  RETURN_IF_ERROR(At(path, "optimizer", moments.status()));
  const auto epoch_value = file->root().Find("epoch");
  RETURN_IF_ERROR(At(path, "epoch", epoch_value.status()));
  const auto epoch = epoch_value->AsInt();
  RETURN_IF_ERROR(At(path, "epoch", epoch.status()));
  if (*epoch < -1) {
    return absl::InvalidArgumentError(fmt::format("{}: epoch {} is none", path.string(), *epoch));
  }

  const TensorMap tensors = TensorsOf(*model, file);
  RETURN_IF_ERROR(CheckQueuePointer(tensors, state.queue().size(), path.string()));
  RETURN_IF_ERROR(
      LoadTensors(StateDict(*state.model()), tensors, path.string(), {.require_complete = true})
          .status());
  {
    torch::NoGradGuard no_grad;
    torch::Tensor(state.adamw().exp_avg()).zero_();
    torch::Tensor(state.adamw().exp_avg_sq()).zero_();
    for (const Moments& moment : moments->moments) {
      Arena::View(state.adamw().exp_avg(), *moment.entry).copy_(moment.exp_avg);
      Arena::View(state.adamw().exp_avg_sq(), *moment.entry).copy_(moment.exp_avg_sq);
    }
  }
  const int64_t updates = moments->updates;
  state.StartFrom({.iteration = options.steps_per_epoch.has_value()
                                    ? (*epoch + 1) * *options.steps_per_epoch
                                    : updates,
                   .updates = updates,
                   .ema_updates = updates});
  return OfficialProgress{
      .epoch = *epoch, .updates = updates, .unknown_classes = file->unknown_classes()};
}

absl::Status ExportOfficialCheckpoint(const std::filesystem::path& path, const TrainState& state,
                                      const OfficialExportOptions& options) {
  std::vector<torch::Tensor> storage;
  const PickleValue root = PickleValue::Dict({{"model", ModelDict(state, storage)},
                                              {"optimizer", OptimizerDict(state, options, storage)},
                                              {"lr_scheduler", SchedulerDict(options.config)},
                                              {"config", ConfigDict(options.config)},
                                              {"epoch", options.epoch}});
  return WritePth(path, root);
}

}  // namespace albef
