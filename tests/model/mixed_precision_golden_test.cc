// The step with products in bf16 against the numbers of the authors' code, which are fp64.
//
// bf16 keeps 8 bits: rounding moves a value by at most 2⁻⁹ = 0.2 %, some 40 times between pixels
// and losses. Single roundings are independent of each other, so a loss ends within 1 % and most
// gradients within 2 %; those that are sums of terms that cancel, such as biases', within 15 %,
// which is a cosine of 0.99. Whatever is wrong in kind (a missing branch, a stale shadow, a
// gradient that does not arrive) misses these by far.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
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
constexpr double kGradientTolerance = 0.15;       // of one tensor: |difference| / |expected|
constexpr double kWholeGradientTolerance = 0.02;  // of all of them as one vector

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
  double expected_square = 0, error_square = 0;
  for (const LayoutEntry& entry : state.arena().layout().entries()) {
    const torch::Tensor& wanted = expected.at("grad." + entry.key);
    const torch::Tensor gradient = Arena::View(state.arena().gradients(), entry);
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << entry.key;
    if (zero.contains(entry.key) || !wanted.any().item<bool>()) continue;
    const double expected_norm = wanted.norm().item<double>();
    const double error_norm =
        (gradient.to(torch::kCPU, torch::kFloat64) - wanted).norm().item<double>();
    EXPECT_LE(error_norm, kGradientTolerance * expected_norm) << entry.key;
    expected_square += expected_norm * expected_norm;
    error_square += error_norm * error_norm;
    ++num_compared;
  }
  EXPECT_GT(num_compared, 100);
  EXPECT_LE(std::sqrt(error_square / expected_square), kWholeGradientTolerance);
}

TEST(MixedPrecisionStep, WithoutAMaskedTokenTheVocabularyHasNoLossAndAllGradientsAreFinite) {
  const nlohmann::json edges = ReadJson("step_edges");
  const TensorMap inputs = ReadTensors("step_edges_inputs");
  const torch::TensorOptions options = torch::TensorOptions(TestDevice()).dtype(torch::kFloat32);
  TrainState state(MakeModel(edges.at("config"), ReadTensors("step_init"), options),
                   {.device = TestDevice(), .bf16_products = true});
  state.Prologue();
  Albef model = state.model();
  const PretrainInputs batch = ToInputs(inputs, "no_mask.", inputs.at("image"), options);
  ASSERT_EQ(batch.masked_index_N.numel(), 0);
  const PretrainOutput output = model->Forward(batch, 0.3);
  (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
  EXPECT_EQ(output.loss_mlm.item<float>(), 0);
  EXPECT_TRUE(state.arena().gradients().isfinite().all().item<bool>());
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
