#include "tests/model/golden_trajectory.h"

#include <cmath>
#include <string_view>

#include "model/state_dict.h"

namespace albef::golden {
namespace {

// Its gradient is zero but for rounding, which Adam turns into steps of up to the learning rate.
bool IsKeyBias(std::string_view key) { return key.ends_with(".self.key.bias"); }

// The middle third of this vector is a key bias too.
bool HoldsKeyBias(std::string_view key) { return key.ends_with("attn.qkv.bias"); }

}  // namespace

TrajectoryTolerances CurveTolerances(torch::ScalarType dtype) {
  return dtype == torch::kFloat64 ? TrajectoryTolerances{1e-11, 1e-11, 1e-10, 1e-9}
                                  : TrajectoryTolerances{5e-5, 1e-4, 5e-5, 5e-4};
}

TrajectoryTolerances RanksTolerances(torch::ScalarType dtype) {
  return dtype == torch::kFloat64 ? TrajectoryTolerances{1e-11, 1e-11, 1e-10, 0}
                                  : TrajectoryTolerances{1e-5, 1e-5, 2e-5, 0};
}

ScheduleOptions ToSchedule(const nlohmann::json& golden) {
  const nlohmann::json& schedular = golden.at("schedular");
  return {.lr = golden.at("optimizer").at("lr"),
          .min_lr = schedular.at("min_lr"),
          .warmup_lr = schedular.at("warmup_lr"),
          .epochs = schedular.at("epochs"),
          .warmup_epochs = schedular.at("warmup_epochs"),
          .step_size = golden.at("schedule_rule").at("step_size")};
}

std::unique_ptr<TrainState> MakeState(const nlohmann::json& golden, const std::string& init,
                                      torch::ScalarType dtype, bool bf16_products) {
  const nlohmann::json& optimizer = golden.at("optimizer");
  TrainStateOptions options{.momentum = golden.at("config").at("momentum"),
                            .device = TestDevice(),
                            .dtype = dtype,
                            .bf16_products = bf16_products};
  options.adamw.weight_decay = optimizer.at("weight_decay");
  options.adamw.beta1 = optimizer.at("betas")[0];
  options.adamw.beta2 = optimizer.at("betas")[1];
  options.adamw.eps = optimizer.at("eps");
  auto state = std::make_unique<TrainState>(Albef(ToOptions(golden.at("config"))), options);
  const auto report =
      LoadTensors(StateDict(*state->model()), ReadTensors(init), init, {.require_complete = true});
  EXPECT_TRUE(report.ok()) << report.status();
  state->StartFrom({});
  Albef(state->model())->train();
  return state;
}

void ExpectRel(double actual, double expected, double tolerance, const std::string& what) {
  EXPECT_LE(std::abs(actual - expected), tolerance * std::abs(expected))
      << what << ": " << actual << " instead of " << expected;
}

void ExpectFinalState(const TrainState& state, const TensorMap& expected,
                      const TrajectoryTolerances& tolerances, bool has_moments) {
  const bool is_double = state.options().dtype == torch::kFloat64;
  const double key_bias_tolerance = 1e-8;  // fp64 only
  const double zero_moment_tolerance = is_double ? 1e-13 : 1e-6;
  size_t num_compared = 0;
  for (const StateEntry& entry : state.State()) {
    const bool is_moment = entry.key.starts_with("exp_avg");
    if (entry.key.starts_with("counters.") || entry.key.ends_with("position_ids")) continue;
    if (is_moment && !has_moments) continue;
    const std::string key = is_moment ? entry.key : "final." + entry.key;
    ASSERT_TRUE(expected.contains(key)) << key;
    const torch::Tensor& wanted = expected.at(key);
    ++num_compared;
    if (is_moment) {
      EXPECT_TRUE(IsKeyBias(key) ? AbsClose(entry.tensor, wanted, zero_moment_tolerance)
                                 : RelClose(entry.tensor, wanted, tolerances.moments_rel))
          << key;
    } else if (IsKeyBias(key)) {
      if (is_double) {
        EXPECT_TRUE(AbsClose(entry.tensor, wanted, key_bias_tolerance)) << key;
      }
    } else if (HoldsKeyBias(key)) {
      const int64_t third = wanted.numel() / 3;
      for (int64_t part = 0; part < 3; ++part) {
        if (part == 1 && !is_double) continue;
        EXPECT_TRUE(AbsClose(entry.tensor.narrow(0, part * third, third),
                             wanted.narrow(0, part * third, third),
                             part == 1 ? key_bias_tolerance : tolerances.final_abs))
            << key << " part " << part;
      }
    } else {
      EXPECT_TRUE(AbsClose(entry.tensor, wanted, tolerances.final_abs)) << key;
    }
  }
  size_t num_expected = 0;
  for (const auto& [key, tensor] : expected) {
    num_expected += key.starts_with("final.") || (has_moments && key.starts_with("exp_avg"));
  }
  EXPECT_EQ(num_compared, num_expected);
}

}  // namespace albef::golden
