// Whole trajectories against the reference: 40 steps of one process (curve), 7 steps of 2 and 4
// processes as virtual ranks (ranks2, ranks4).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/schedule.h"
#include "model/state_dict.h"
#include "model/train_state.h"
#include "tests/model/golden.h"

namespace albef {
namespace {

// Its gradient is zero but for rounding, which Adam turns into steps of up to the learning rate.
bool IsKeyBias(std::string_view key) { return key.ends_with(".self.key.bias"); }

// The middle third of this vector is a key bias too.
bool HoldsKeyBias(std::string_view key) { return key.ends_with("attn.qkv.bias"); }

struct Tolerances {
  double losses_rel, grad_norm_rel, final_abs, moments_rel;
};

std::unique_ptr<TrainState> MakeState(const nlohmann::json& golden, const std::string& init,
                                      torch::ScalarType dtype) {
  const nlohmann::json& optimizer = golden.at("optimizer");
  TrainStateOptions options{.momentum = golden.at("config").at("momentum"), .dtype = dtype};
  options.adamw.weight_decay = optimizer.at("weight_decay");
  options.adamw.beta1 = optimizer.at("betas")[0];
  options.adamw.beta2 = optimizer.at("betas")[1];
  options.adamw.eps = optimizer.at("eps");
  auto state = std::make_unique<TrainState>(Albef(golden::ToOptions(golden.at("config"))), options);
  const auto report = LoadTensors(StateDict(*state->model()), golden::ReadTensors(init), init,
                                  {.require_complete = true});
  EXPECT_TRUE(report.ok()) << report.status();
  state->StartFrom({});
  Albef(state->model())->train();
  return state;
}

struct RankResult {
  double loss_mlm, loss_itc, loss_itm;
  torch::Tensor image_feat_BE, text_feat_BE;
  torch::Tensor gradients;
};

// Forward and backward of one virtual rank into a gradient tensor of its own.
RankResult RunRank(TrainState& state, const golden::TensorMap& inputs, const std::string& prefix,
                   double alpha) {
  const at::TensorOptions options = state.arena().parameters().options();
  const torch::Tensor image_BCHW =
      inputs.at("images").index_select(0, inputs.at(prefix + "image_index"));
  state.arena().BindGradients(state.arena().NewFlat());
  const PretrainOutput output = Albef(state.model())
                                    ->Forward(golden::ToInputs(inputs, prefix, image_BCHW, options),
                                              alpha, golden::ToNegatives(inputs, prefix, options));
  (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
  return {output.loss_mlm.item<double>(), output.loss_itc.item<double>(),
          output.loss_itm.item<double>(), output.image_feat_m_BE,
          output.text_feat_m_BE,          state.arena().gradients()};
}

// Sum over [0, V) in the order of the reduction tree (design §4).
torch::Tensor TreeSum(std::span<const torch::Tensor> parts) {
  if (parts.size() == 1) return parts[0];
  size_t half = 1;
  while (half * 2 < parts.size()) half *= 2;
  return TreeSum(parts.first(half)) + TreeSum(parts.subspan(half));
}

void ExpectRel(double actual, double expected, double tolerance, const std::string& what) {
  EXPECT_LE(std::abs(actual - expected), tolerance * std::abs(expected))
      << what << ": " << actual << " instead of " << expected;
}

// Compares all of State() that the fixture holds, and that the fixture holds nothing else.
void ExpectFinalState(const TrainState& state, const golden::TensorMap& expected,
                      const Tolerances& tolerances, bool has_moments) {
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
      EXPECT_TRUE(IsKeyBias(key) ? golden::AbsClose(entry.tensor, wanted, zero_moment_tolerance)
                                 : golden::RelClose(entry.tensor, wanted, tolerances.moments_rel))
          << key;
    } else if (IsKeyBias(key)) {
      if (is_double) {
        EXPECT_TRUE(golden::AbsClose(entry.tensor, wanted, key_bias_tolerance)) << key;
      }
    } else if (HoldsKeyBias(key)) {
      const int64_t third = wanted.numel() / 3;
      for (int64_t part = 0; part < 3; ++part) {
        if (part == 1 && !is_double) continue;
        EXPECT_TRUE(golden::AbsClose(entry.tensor.narrow(0, part * third, third),
                                     wanted.narrow(0, part * third, third),
                                     part == 1 ? key_bias_tolerance : tolerances.final_abs))
            << key << " part " << part;
      }
    } else {
      EXPECT_TRUE(golden::AbsClose(entry.tensor, wanted, tolerances.final_abs)) << key;
    }
  }
  size_t num_expected = 0;
  for (const auto& [key, tensor] : expected) {
    num_expected += key.starts_with("final.") || (has_moments && key.starts_with("exp_avg"));
  }
  EXPECT_EQ(num_compared, num_expected);
}

class TrajectoryTest : public testing::TestWithParam<torch::ScalarType> {
 protected:
  bool is_double() const { return GetParam() == torch::kFloat64; }
};

TEST_P(TrajectoryTest, FortyStepsEndWhereTheReferenceEnds) {
  const Tolerances tolerances =
      is_double() ? Tolerances{1e-11, 1e-11, 1e-10, 1e-9} : Tolerances{5e-5, 1e-4, 5e-5, 5e-4};
  const nlohmann::json golden = golden::ReadJson("curve");
  const golden::TensorMap inputs = golden::ReadTensors("curve_inputs");
  const golden::TensorMap expected = golden::ReadTensors("curve_expected");
  const auto state = MakeState(golden, "small_init", GetParam());

  const nlohmann::json& schedular = golden.at("schedular");
  const ScheduleOptions schedule{.lr = golden.at("optimizer").at("lr"),
                                 .min_lr = schedular.at("min_lr"),
                                 .warmup_lr = schedular.at("warmup_lr"),
                                 .epochs = schedular.at("epochs"),
                                 .warmup_epochs = schedular.at("warmup_epochs"),
                                 .step_size = golden.at("schedule_rule").at("step_size")};
  const DistillationOptions distillation{.alpha = golden.at("config").at("alpha")};
  const int64_t steps_per_epoch = golden.at("iterations_per_epoch");
  const int64_t num_steps = expected.at("steps.lr").numel();
  for (int64_t step = 0; step < num_steps; ++step) {
    const auto recorded = [&](const std::string& quantity) {
      return expected.at("steps." + quantity)[step].item<double>();
    };
    const std::string at = fmt::format(" of step {}", step);
    const EpochPosition position = PositionOf(state->counters().iteration, steps_per_epoch);
    const double alpha = DistillationWeight(distillation, position, steps_per_epoch);
    const double lr = LearningRate(schedule, position);
    state->Prologue();
    const RankResult rank = RunRank(*state, inputs, fmt::format("s{:02}.", step), alpha);
    const double grad_norm = rank.gradients.norm().item<double>();
    state->Commit(lr, rank.image_feat_BE, rank.text_feat_BE);

    ExpectRel(alpha, recorded("alpha"), 1e-12, "alpha" + at);
    ExpectRel(lr, recorded("lr"), 1e-12, "lr" + at);
    ExpectRel(rank.loss_mlm, recorded("loss_mlm"), tolerances.losses_rel, "loss_mlm" + at);
    ExpectRel(rank.loss_itc, recorded("loss_ita"), tolerances.losses_rel, "loss_ita" + at);
    ExpectRel(rank.loss_itm, recorded("loss_itm"), tolerances.losses_rel, "loss_itm" + at);
    ExpectRel(grad_norm, recorded("grad_norm"), tolerances.grad_norm_rel, "grad_norm" + at);
    ExpectRel(state->model()->temperature.item<double>(), recorded("temp"), tolerances.losses_rel,
              "temp" + at);
  }
  EXPECT_EQ(state->counters(), (StepCounters{num_steps, num_steps, num_steps}));
  ExpectFinalState(*state, expected, tolerances, /*has_moments=*/true);
}

TEST_P(TrajectoryTest, VirtualRanksEndWhereTheReferencesProcessesEnd) {
  const Tolerances tolerances =
      is_double() ? Tolerances{1e-11, 1e-11, 1e-10, 0} : Tolerances{1e-5, 1e-5, 2e-5, 0};
  for (const std::string name : {"ranks2", "ranks4"}) {
    SCOPED_TRACE(name);
    const nlohmann::json golden = golden::ReadJson(name);
    const golden::TensorMap inputs = golden::ReadTensors(name + "_inputs");
    const golden::TensorMap expected = golden::ReadTensors(name + "_expected");
    const auto state = MakeState(golden, "ranks_init", GetParam());
    const int64_t num_ranks = golden.at("world_size");
    const int64_t num_steps = golden.at("steps");
    for (int64_t step = 0; step < num_steps; ++step) {
      state->Prologue();
      std::vector<torch::Tensor> gradients, image_feats, text_feats;
      for (int64_t rank = 0; rank < num_ranks; ++rank) {
        const RankResult result =
            RunRank(*state, inputs, fmt::format("s{}.r{}.", step, rank), golden.at("alpha")[step]);
        gradients.push_back(result.gradients);
        image_feats.push_back(result.image_feat_BE);
        text_feats.push_back(result.text_feat_BE);
        for (const auto& [loss, value] :
             {std::pair("loss_mlm", result.loss_mlm), std::pair("loss_ita", result.loss_itc),
              std::pair("loss_itm", result.loss_itm)}) {
          ExpectRel(value, expected.at(fmt::format("steps.{}", loss))[step][rank].item<double>(),
                    tolerances.losses_rel, fmt::format("{} of step {} rank {}", loss, step, rank));
        }
      }
      state->arena().BindGradients(TreeSum(gradients).div_(num_ranks));
      ExpectRel(state->arena().gradients().norm().item<double>(),
                expected.at("steps.grad_norm")[step].item<double>(), tolerances.grad_norm_rel,
                fmt::format("grad_norm of step {}", step));
      if (step == 0) {
        for (const auto& [key, gradient] : expected) {
          if (!key.starts_with("grad0.")) continue;
          const LayoutEntry* entry = state->arena().layout().Find(key.substr(6));
          ASSERT_NE(entry, nullptr) << key;
          EXPECT_TRUE(golden::RelClose(Arena::View(state->arena().gradients(), *entry), gradient,
                                       is_double() ? 1e-11 : 1e-4))
              << key;
        }
      }
      state->Commit(golden.at("optimizer").at("lr"), torch::cat(image_feats),
                    torch::cat(text_feats));
    }
    ExpectFinalState(*state, expected, tolerances, /*has_moments=*/false);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, TrajectoryTest,
                         testing::Values(torch::kFloat64, torch::kFloat32),
                         [](const auto& dtype) { return c10::toString(dtype.param); });

}  // namespace
}  // namespace albef
