// The trainer's own step over the trajectories of the reference: 40 steps of one process, 7 steps
// of 2 and 4 processes as virtual ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "tests/model/golden_trajectory.h"
#include "worker/pretrain_step.h"

namespace albef {
namespace {

class PretrainStepGolden : public testing::TestWithParam<torch::ScalarType> {
 protected:
  // The batches of a step, whose keys begin with what `prefix` makes of a virtual rank.
  PretrainStep::InputSource Inputs(const golden::TensorMap& tensors,
                                   const std::function<std::string(int64_t)>& prefix) const {
    return [this, &tensors, prefix](int64_t rank) -> absl::StatusOr<PretrainInputs> {
      const torch::Tensor image_BCHW =
          tensors.at("images").index_select(0, tensors.at(prefix(rank) + "image_index"));
      return golden::ToInputs(tensors, prefix(rank), image_BCHW,
                              torch::TensorOptions(golden::TestDevice()).dtype(GetParam()));
    };
  }
};

TEST_P(PretrainStepGolden, FortyStepsEndWhereTheReferenceEnds) {
  const golden::TrajectoryTolerances tolerances = golden::CurveTolerances(GetParam());
  const nlohmann::json golden = golden::ReadJson("curve");
  const golden::TensorMap inputs = golden::ReadTensors("curve_inputs");
  const golden::TensorMap expected = golden::ReadTensors("curve_expected");
  const auto state = golden::MakeState(golden, "small_init", GetParam());
  PretrainStep step(state.get(),
                    {.steps_per_epoch = golden.at("iterations_per_epoch"),
                     .schedule = golden::ToSchedule(golden),
                     .distillation = {.alpha = golden.at("config").at("alpha")}},
                    Place::Alone(1));
  const int64_t num_steps = expected.at("steps.lr").numel();
  for (int64_t i = 0; i < num_steps; ++i) {
    const auto report =
        step.Run(Inputs(inputs, [i](int64_t) { return fmt::format("s{:02}.", i); }));
    ASSERT_TRUE(report.ok()) << report.status();
    const auto expect = [&](double actual, const char* quantity, double tolerance) {
      golden::ExpectRel(actual, expected.at(std::string("steps.") + quantity)[i].item<double>(),
                        tolerance, fmt::format("{} of step {}", quantity, i));
    };
    expect(report->learning_rate, "lr", 1e-12);
    expect(report->alpha, "alpha", 1e-12);
    expect(report->decision.loss_mlm, "loss_mlm", tolerances.losses_rel);
    expect(report->decision.loss_itc, "loss_ita", tolerances.losses_rel);
    expect(report->decision.loss_itm, "loss_itm", tolerances.losses_rel);
    expect(state->arena().gradients().norm().item<double>(), "grad_norm", tolerances.grad_norm_rel);
  }
  EXPECT_EQ(state->counters(), (StepCounters{num_steps, num_steps, num_steps}));
  golden::ExpectFinalState(*state, expected, tolerances, /*has_moments=*/true);
}

TEST_P(PretrainStepGolden, VirtualRanksEndWhereTheReferencesProcessesEnd) {
  const golden::TrajectoryTolerances tolerances = golden::RanksTolerances(GetParam());
  for (const std::string name : {"ranks2", "ranks4"}) {
    SCOPED_TRACE(name);
    const nlohmann::json golden = golden::ReadJson(name);
    const golden::TensorMap inputs = golden::ReadTensors(name + "_inputs");
    const golden::TensorMap expected = golden::ReadTensors(name + "_expected");
    const auto state = golden::MakeState(golden, "ranks_init", GetParam());
    const int num_ranks = golden.at("world_size");
    const int64_t num_steps = golden.at("steps");
    const double lr = golden.at("optimizer").at("lr");
    for (int64_t i = 0; i < num_steps; ++i) {
      // A step of its own for each iteration: the fixture's α follow no schedule.
      PretrainStep step(state.get(),
                        {.virtual_ranks = num_ranks,
                         .steps_per_epoch = num_steps,
                         .schedule = {.lr = lr, .min_lr = lr, .warmup_lr = lr},
                         .distillation = {.alpha = golden.at("alpha")[i], .ramp = false}},
                        Place::Alone(num_ranks));
      const auto report =
          step.Run(Inputs(inputs, [i](int64_t rank) { return fmt::format("s{}.r{}.", i, rank); }));
      ASSERT_TRUE(report.ok()) << report.status();
      for (const auto& [loss, value] : {std::pair("loss_mlm", report->decision.loss_mlm),
                                        std::pair("loss_ita", report->decision.loss_itc),
                                        std::pair("loss_itm", report->decision.loss_itm)}) {
        golden::ExpectRel(value, expected.at(std::string("steps.") + loss)[i].mean().item<double>(),
                          tolerances.losses_rel, fmt::format("mean {} of step {}", loss, i));
      }
      golden::ExpectRel(state->arena().gradients().norm().item<double>(),
                        expected.at("steps.grad_norm")[i].item<double>(), tolerances.grad_norm_rel,
                        fmt::format("grad_norm of step {}", i));
    }
    golden::ExpectFinalState(*state, expected, tolerances, /*has_moments=*/false);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, PretrainStepGolden,
                         testing::Values(torch::kFloat64, torch::kFloat32),
                         [](const auto& dtype) { return c10::toString(dtype.param); });

}  // namespace
}  // namespace albef
