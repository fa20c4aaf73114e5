#include "model/arena.h"

#include <torch/autograd.h>
#include <torch/utils.h>

#include <memory>
#include <set>
#include <utility>

namespace albef {
namespace {

// Parameters of the module, tied ones once.
std::vector<std::pair<std::string, torch::Tensor>> UniqueParameters(
    const torch::nn::Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> parameters;
  std::set<const c10::TensorImpl*> seen;
  for (const auto& item : module.named_parameters()) {
    if (seen.insert(item.value().unsafeGetTensorImpl()).second) {
      parameters.emplace_back(item.key(), item.value());
    }
  }
  return parameters;
}

class TellsOfGradient final : public torch::autograd::PostAccumulateGradHook {
 public:
  TellsOfGradient(std::shared_ptr<const Arena::GradientWatch::Callback> tell,
                  const LayoutEntry* entry)
      : tell_(std::move(tell)), entry_(entry) {}

  void operator()(const torch::Tensor&) override { (*tell_)(*entry_); }

 private:
  const std::shared_ptr<const Arena::GradientWatch::Callback> tell_;
  const LayoutEntry* const entry_;
};

void Round(const torch::Tensor& flat, const torch::Tensor& shadows, ArenaRange range) {
  if (!shadows.defined()) return;
  const torch::NoGradGuard no_grad;
  shadows.narrow(0, range.offset, range.size).copy_(flat.narrow(0, range.offset, range.size));
}

size_t ElementBytes(const torch::nn::Module& module) {
  const std::vector<torch::Tensor> parameters = module.parameters();
  TORCH_CHECK(!parameters.empty(), "arena: the module has no parameters");
  return parameters.front().element_size();
}

}  // namespace

std::vector<ParameterShape> TrainableShapes(const torch::nn::Module& module) {
  std::vector<ParameterShape> shapes;
  for (const auto& [key, parameter] : UniqueParameters(module)) {
    if (parameter.requires_grad()) shapes.push_back({key, parameter.sizes().vec()});
  }
  return shapes;
}

std::string StudentKey(std::string_view teacher_key) {
  const size_t dot = teacher_key.find('.');
  const std::string_view head = teacher_key.substr(0, dot);
  if (dot == std::string_view::npos || !head.ends_with("_m")) return {};
  return std::string(head.substr(0, head.size() - 2)).append(teacher_key.substr(dot));
}

Arena::GradientWatch::GradientWatch(const Arena& arena, Callback on_final) : arena_(arena) {
  const auto tell = std::make_shared<const Callback>(std::move(on_final));
  for (const Bound& student : arena_.students_) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        student.parameter, std::make_unique<TellsOfGradient>(tell, student.entry));
  }
}

Arena::GradientWatch::~GradientWatch() {
  for (const Bound& student : arena_.students_) {
    torch::autograd::impl::set_post_acc_grad_hooks(student.parameter, nullptr);
  }
}

Arena::Arena(torch::nn::Module& module) : layout_(TrainableShapes(module), ElementBytes(module)) {
  const auto parameters = UniqueParameters(module);
  const auto options = parameters.front().second.options().requires_grad(false);
  parameters_ = torch::zeros({layout_.size()}, options);
  teacher_ = torch::zeros_like(parameters_);

  torch::NoGradGuard no_grad;
  for (const auto& [key, parameter] : parameters) {
    const bool trainable = parameter.requires_grad();
    const LayoutEntry* entry = layout_.Find(trainable ? key : StudentKey(key));
    TORCH_CHECK(entry != nullptr, "arena: ", key,
                " requires no gradient and is no teacher parameter (no student of that name)");
    TORCH_CHECK(parameter.sizes() == torch::IntArrayRef(entry->shape), "arena: ", key,
                " has shape ", parameter.sizes(), ", its student ",
                torch::IntArrayRef(entry->shape));
    TORCH_CHECK(parameter.scalar_type() == parameters_.scalar_type() &&
                    parameter.device() == parameters_.device(),
                "arena: ", key, " is ", parameter.toString(), " on ", parameter.device(),
                ", other parameters are ", parameters_.toString(), " on ", parameters_.device());
    torch::Tensor view = View(trainable ? parameters_ : teacher_, *entry);
    view.copy_(parameter);
    torch::Tensor handle = parameter;
    handle.set_data(view);
    (trainable ? students_ : teachers_).push_back({handle, entry});
  }
  BindGradients(torch::zeros_like(parameters_));
}

torch::Tensor Arena::NewFlat() const { return torch::zeros_like(parameters_); }

void Arena::BindGradients(const torch::Tensor& flat) {
  TORCH_CHECK(
      flat.sizes() == parameters_.sizes() && flat.options().type_equal(parameters_.options()),
      "arena: gradients need ", parameters_.sizes(), " ", parameters_.toString(), ", got ",
      flat.sizes(), " ", flat.toString());
  gradients_ = flat;
  for (Bound& student : students_) {
    student.parameter.mutable_grad() = View(gradients_, *student.entry);
  }
}

void Arena::AddShadows() {
  if (shadows_.defined()) return;
  shadows_ = torch::zeros_like(parameters_, torch::kBFloat16);
  teacher_shadows_ = torch::zeros_like(teacher_, torch::kBFloat16);
  RefreshShadows();
  RefreshTeacherShadows();
}

void Arena::RefreshShadows(ArenaRange range) const { Round(parameters_, shadows_, range); }

void Arena::RefreshTeacherShadows(ArenaRange range) const {
  Round(teacher_, teacher_shadows_, range);
}

torch::Tensor Arena::ShadowOf(const torch::Tensor& parameter) const {
  TORCH_CHECK(shadows_.defined(), "arena: there are no shadows; call AddShadows() first");
  for (const auto& [bound, flat] :
       {std::pair(&students_, &shadows_), std::pair(&teachers_, &teacher_shadows_)}) {
    for (const Bound& candidate : *bound) {
      if (candidate.parameter.is_same(parameter)) return View(*flat, *candidate.entry);
    }
  }
  TORCH_CHECK(false, "arena: a tensor of shape ", parameter.sizes(), " is none of its parameters");
}

torch::Tensor Arena::View(const torch::Tensor& flat, const LayoutEntry& entry) {
  return flat.narrow(0, entry.offset, entry.num_values).view(entry.shape);
}

void Arena::CheckAliasing() const {
  const auto check = [](const torch::Tensor& tensor, const torch::Tensor& flat,
                        const LayoutEntry& entry, const char* what) {
    const bool aliases =
        tensor.defined() && tensor.is_contiguous() && tensor.scalar_type() == flat.scalar_type() &&
        tensor.const_data_ptr() == static_cast<const char*>(flat.const_data_ptr()) +
                                       entry.offset * static_cast<int64_t>(flat.element_size());
    TORCH_CHECK(aliases, "arena: the ", what, " of ", entry.key,
                " is no longer a view of the arena; nothing may call to() or zero_grad() on the "
                "module or replace its tensors after the arena is built");
  };
  for (const Bound& student : students_) {
    check(student.parameter, parameters_, *student.entry, "value");
    check(student.parameter.grad(), gradients_, *student.entry, "gradient");
  }
  for (const Bound& teacher : teachers_) {
    check(teacher.parameter, teacher_, *teacher.entry, "teacher value");
  }
}

}  // namespace albef
