// What tests of whole trajectories share: the fixtures curve, ranks2 and ranks4.
#ifndef ALBEF_TESTS_MODEL_GOLDEN_TRAJECTORY_H_
#define ALBEF_TESTS_MODEL_GOLDEN_TRAJECTORY_H_

#include <torch/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "model/schedule.h"
#include "model/train_state.h"
#include "tests/model/golden.h"

namespace albef::golden {

// As the fixtures' README has them.
struct TrajectoryTolerances {
  double losses_rel, grad_norm_rel, final_abs, moments_rel;
};
TrajectoryTolerances CurveTolerances(torch::ScalarType dtype);
TrajectoryTolerances RanksTolerances(torch::ScalarType dtype);

ScheduleOptions ToSchedule(const nlohmann::json& golden);

// A state of the case's sizes and optimizer, on TestDevice(), with the initial values in the
// fixture `init`.
std::unique_ptr<TrainState> MakeState(const nlohmann::json& golden, const std::string& init,
                                      torch::ScalarType dtype, bool bf16_products = false);

void ExpectRel(double actual, double expected, double tolerance, const std::string& what);

// Compares all of State() that the fixture holds, and that the fixture holds nothing else.
void ExpectFinalState(const TrainState& state, const TensorMap& expected,
                      const TrajectoryTolerances& tolerances, bool has_moments);

}  // namespace albef::golden

#endif  // ALBEF_TESTS_MODEL_GOLDEN_TRAJECTORY_H_
