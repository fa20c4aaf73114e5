// Whole trajectories against the reference: 40 steps of one process (curve), 7 steps of 2 and 4
// processes as virtual ranks (ranks2, ranks4).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "model/schedule.h"
#include "model/train_state.h"
#include "tests/comm/tree_mean.h"
#include "tests/model/golden.h"
#include "tests/model/golden_trajectory.h"

namespace albef {
namespace {

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
  const PretrainOutput output =
      Albef(state.model())->Forward(golden::ToInputs(inputs, prefix, image_BCHW, options), alpha);
  (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
  return {output.loss_mlm.item<double>(), output.loss_itc.item<double>(),
          output.loss_itm.item<double>(), output.image_feat_m_BE,
          output.text_feat_m_BE,          state.arena().gradients()};
}

class TrajectoryTest : public testing::TestWithParam<torch::ScalarType> {
 protected:
  bool is_double() const { return GetParam() == torch::kFloat64; }
};

TEST_P(TrajectoryTest, FortyStepsEndWhereTheReferenceEnds) {
  const golden::TrajectoryTolerances tolerances = golden::CurveTolerances(GetParam());
  const nlohmann::json golden = golden::ReadJson("curve");
  const golden::TensorMap inputs = golden::ReadTensors("curve_inputs");
  const golden::TensorMap expected = golden::ReadTensors("curve_expected");
  const auto state = golden::MakeState(golden, "small_init", GetParam());

  const ScheduleOptions schedule = golden::ToSchedule(golden);
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

    golden::ExpectRel(alpha, recorded("alpha"), 1e-12, "alpha" + at);
    golden::ExpectRel(lr, recorded("lr"), 1e-12, "lr" + at);
    golden::ExpectRel(rank.loss_mlm, recorded("loss_mlm"), tolerances.losses_rel, "loss_mlm" + at);
    golden::ExpectRel(rank.loss_itc, recorded("loss_ita"), tolerances.losses_rel, "loss_ita" + at);
    golden::ExpectRel(rank.loss_itm, recorded("loss_itm"), tolerances.losses_rel, "loss_itm" + at);
    golden::ExpectRel(grad_norm, recorded("grad_norm"), tolerances.grad_norm_rel, "grad_norm" + at);
    golden::ExpectRel(state->model()->temperature.item<double>(), recorded("temp"),
                      tolerances.losses_rel, "temp" + at);
  }
  EXPECT_EQ(state->counters(), (StepCounters{num_steps, num_steps, num_steps}));
  golden::ExpectFinalState(*state, expected, tolerances, /*has_moments=*/true);
}

TEST_P(TrajectoryTest, VirtualRanksEndWhereTheReferencesProcessesEnd) {
  const golden::TrajectoryTolerances tolerances = golden::RanksTolerances(GetParam());
  for (const std::string name : {"ranks2", "ranks4"}) {
    SCOPED_TRACE(name);
    const nlohmann::json golden = golden::ReadJson(name);
    const golden::TensorMap inputs = golden::ReadTensors(name + "_inputs");
    const golden::TensorMap expected = golden::ReadTensors(name + "_expected");
    const auto state = golden::MakeState(golden, "ranks_init", GetParam());
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
          golden::ExpectRel(
              value, expected.at(fmt::format("steps.{}", loss))[step][rank].item<double>(),
              tolerances.losses_rel, fmt::format("{} of step {} rank {}", loss, step, rank));
        }
      }
      state->arena().BindGradients(TreeMean(gradients));
      golden::ExpectRel(state->arena().gradients().norm().item<double>(),
                        expected.at("steps.grad_norm")[step].item<double>(),
                        tolerances.grad_norm_rel, fmt::format("grad_norm of step {}", step));
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
    golden::ExpectFinalState(*state, expected, tolerances, /*has_moments=*/false);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, TrajectoryTest,
                         testing::Values(torch::kFloat64, torch::kFloat32),
                         [](const auto& dtype) { return c10::toString(dtype.param); });

}  // namespace
}  // namespace albef
