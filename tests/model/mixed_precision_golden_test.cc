// The step with products in bf16 against the numbers of the authors' code, which are fp64.
//
// bf16 keeps 8 bits: rounding moves a value by at most 2⁻⁹ = 0.2 %, some 40 times between pixels
// and losses. Errors of single roundings are independent, so a loss ends within 1 % and a gradient
// within some degrees of its direction; whatever is wrong in kind (a missing branch, a stale
// shadow, a gradient that does not arrive) misses these by far.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <memory>
#include <set>
#include <string>

#include "model/schedule.h"
#include "model/train_state.h"
#include "tests/model/golden.h"
#include "tests/model/golden_trajectory.h"

namespace albef::golden {
namespace {

constexpr double kLossTolerance = 1e-2;
constexpr double kLeastCosine = 0.99;

double Cosine(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::Tensor left = a.detach().to(torch::kCPU, torch::kFloat64).flatten();
  const torch::Tensor right = b.to(torch::kFloat64).flatten();
  return (left.dot(right) / (left.norm() * right.norm())).item<double>();
}

TEST(MixedPrecisionStep, LossesAndEveryGradientAreTheReferencesWithinBf16) {
  const nlohmann::json step = ReadJson("step");
  const TensorMap inputs = ReadTensors("step_inputs");
  const TensorMap expected = ReadTensors("step_expected");
  const torch::TensorOptions options = torch::TensorOptions(TestDevice()).dtype(torch::kFloat32);
  TrainState state(MakeModel(step.at("config"), ReadTensors("step_init"), options),
                   {.momentum = step.at("config").at("momentum"),
                    .device = TestDevice(),
                    .bf16_products = true});
  state.Prologue();
  Albef model = state.model();
  const PretrainOutput output =
      model->Forward(ToInputs(inputs, "", inputs.at("image"), options), step.at("alpha"));
  (output.loss_mlm + output.loss_itc + output.loss_itm).backward();

  for (const auto& [name, loss] :
       {std::pair("loss_mlm", output.loss_mlm), std::pair("loss_ita", output.loss_itc),
        std::pair("loss_itm", output.loss_itm)}) {
    EXPECT_EQ(loss.scalar_type(), torch::kFloat32);
    ExpectRel(loss.item<double>(), expected.at(name).item<double>(), kLossTolerance, name);
    EXPECT_NE(loss.item<float>(), expected.at(name).to(torch::kFloat32).item<float>())
        << name << " is as exact as without bf16";
  }
  const auto zero = step.at("zero_gradient_parameters").get<std::set<std::string>>();
  int num_compared = 0;
  for (const LayoutEntry& entry : state.arena().layout().entries()) {
    const torch::Tensor& wanted = expected.at("grad." + entry.key);
    const torch::Tensor gradient = Arena::View(state.arena().gradients(), entry);
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << entry.key;
    if (zero.contains(entry.key) || !wanted.any().item<bool>()) continue;
    EXPECT_GT(Cosine(gradient, wanted), kLeastCosine) << entry.key;
    ExpectRel(gradient.norm().item<double>(), wanted.norm().item<double>(), 0.1,
              "norm of the gradient of " + entry.key);
    ++num_compared;
  }
  EXPECT_GT(num_compared, 100);
}

TEST(MixedPrecisionStep, FortyStepsStayBesideTheReference) {
  const nlohmann::json golden = ReadJson("curve");
  const TensorMap inputs = ReadTensors("curve_inputs");
  const TensorMap expected = ReadTensors("curve_expected");
  const auto state = MakeState(golden, "small_init", torch::kFloat32, /*bf16_products=*/true);
  const ScheduleOptions schedule = ToSchedule(golden);
  const DistillationOptions distillation{.alpha = golden.at("config").at("alpha")};
  const int64_t steps_per_epoch = golden.at("iterations_per_epoch");
  const int64_t num_steps = expected.at("steps.lr").numel();
  for (int64_t step = 0; step < num_steps; ++step) {
    const EpochPosition position = PositionOf(step, steps_per_epoch);
    state->Prologue();
    state->arena().gradients().zero_();
    const std::string prefix = fmt::format("s{:02}.", step);
    const torch::Tensor image_BCHW =
        inputs.at("images").index_select(0, inputs.at(prefix + "image_index"));
    const PretrainOutput output =
        Albef(state->model())
            ->Forward(ToInputs(inputs, prefix, image_BCHW, state->arena().parameters().options()),
                      DistillationWeight(distillation, position, steps_per_epoch));
    (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
    state->Commit(LearningRate(schedule, position), output.image_feat_m_BE, output.text_feat_m_BE);
    for (const auto& [name, loss] :
         {std::pair("loss_mlm", output.loss_mlm), std::pair("loss_ita", output.loss_itc),
          std::pair("loss_itm", output.loss_itm)}) {
      ExpectRel(loss.item<double>(), expected.at(std::string("steps.") + name)[step].item<double>(),
                kLossTolerance, fmt::format("{} of step {}", name, step));
    }
  }
}

}  // namespace
}  // namespace albef::golden
