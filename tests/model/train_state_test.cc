#include "model/train_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "model/initialization.h"
#include "model/state_dict.h"
#include "model/tensor_io.h"
#include "tests/model/tiny_model.h"

namespace albef {
namespace {

using testing::HasSubstr;

TrainState SmallState(uint64_t seed) {
  Albef model(TinyModelOptions(/*queue_size=*/5));
  InitializeRandomly(*model, seed);
  return TrainState(model, {});
}

std::vector<NamedTensor> Bytes(const std::vector<StateEntry>& state) {
  std::vector<NamedTensor> tensors;
  for (const StateEntry& entry : state) tensors.push_back({entry.key, ViewTensor(entry.tensor)});
  return tensors;
}

bool Equal(const std::vector<StateEntry>& a, const std::vector<StateEntry>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].key != b[i].key || !a[i].tensor.equal(b[i].tensor)) return false;
  }
  return true;
}

// A committed step with made-up gradients and features.
void Step(TrainState& state, int64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  state.Prologue();
  for (const LayoutEntry& entry : state.arena().layout().entries()) {
    Arena::View(state.arena().gradients(), entry).normal_(0, 1, generator);
  }
  const torch::Tensor image_NE = torch::empty({3, 8}).normal_(0, 1, generator);
  const torch::Tensor text_NE = torch::empty({3, 8}).normal_(0, 1, generator);
  state.Commit(1e-3, image_NE, text_NE);
}

TEST(StateDict, OfTheFullSizeModelHasTheAuthorsKeysInTheirOrder) {
  const Albef model{AlbefOptions()};
  std::string actual;
  for (const StateEntry& entry : StateDict(*model)) {
    std::string shape;
    for (const int64_t extent : entry.tensor.sizes()) {
      shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
    }
    if (entry.tensor.dim() == 1) shape += ",";
    actual += entry.key + "\t(" + shape + ")\ttorch." +
              (entry.tensor.is_floating_point() ? "float32" : "int64") + "\n";
  }
  std::ifstream file("tests/golden/keys.txt");
  ASSERT_TRUE(file.good());
  std::stringstream expected;
  expected << file.rdbuf();
  EXPECT_EQ(actual, expected.str());

  const Layout layout(TrainableShapes(*model), sizeof(float));
  EXPECT_EQ(layout.num_values(), 209'937'725);
}

TEST(LoadTensors, EitherNameOfATiedTensorServes) {
  const TrainState source = SmallState(1), target = SmallState(2);
  for (const bool keep_first : {true, false}) {
    TensorMap tensors;
    for (const StateEntry& entry : StateDict(*source.model())) {
      tensors.emplace(entry.key, entry.tensor.detach().clone());
    }
    for (const StateEntry& entry : StateDict(*source.model())) {
      if (!entry.tied_to.empty()) tensors.erase(keep_first ? entry.key : entry.tied_to);
    }
    const auto report =
        LoadTensors(StateDict(*target.model()), tensors, "file", {.require_complete = true});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(Equal(StateDict(*source.model()), StateDict(*target.model())));
  }
}

TEST(LoadTensors, RefusesAnotherQueueSizeAndNamesTheKey) {
  const TrainState state = SmallState(1);
  const torch::Tensor before = state.arena().parameters().clone();
  const TensorMap tensors = {{"image_queue", torch::zeros({8, 7})}, {"temp", torch::ones({})}};
  const auto report = LoadTensors(StateDict(*state.model()), tensors, "x.pth");
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(report.status().message()),
              testing::AllOf(HasSubstr("x.pth: image_queue"), HasSubstr("[8, 7]"),
                             HasSubstr("[8, 5]"), HasSubstr("queue_size")));
  EXPECT_TRUE(state.arena().parameters().equal(before));
}

TEST(LoadTensors, RefusesTiedNamesThatDiffer) {
  const TrainState state = SmallState(1);
  const TensorMap tensors = {{"text_encoder.cls.predictions.bias", torch::zeros({50})},
                             {"text_encoder.cls.predictions.decoder.bias", torch::ones({50})}};
  EXPECT_THAT(std::string(LoadTensors(StateDict(*state.model()), tensors, "f").status().message()),
              HasSubstr("decoder.bias differ"));
}

TEST(LoadTensors, ReportsWhatIsMissingAndUnexpected) {
  const TrainState state = SmallState(1);
  const auto report = LoadTensors(StateDict(*state.model()),
                                  {{"temp", torch::ones({})}, {"odd", torch::ones({})}}, "f");
  ASSERT_TRUE(report.ok());
  EXPECT_THAT(report->loaded, testing::ElementsAre("temp"));
  EXPECT_THAT(report->unexpected, testing::ElementsAre("odd"));
  EXPECT_EQ(report->missing.size() + 1, StateDict(*state.model()).size());
  const torch::Tensor before = state.arena().parameters().clone();
  const auto strict =
      LoadTensors(StateDict(*state.model()), {{"temp", torch::zeros({})}, {"odd", torch::ones({})}},
                  "f", {.require_complete = true});
  EXPECT_EQ(strict.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(strict.status().message()), HasSubstr("(odd)"));
  EXPECT_TRUE(state.arena().parameters().equal(before));
}

TEST(TrainState, PrologueIsIdempotentUntilACommit) {
  TrainState state = SmallState(1);
  state.arena().parameters().add_(0.25);  // the teacher is behind
  const torch::Tensor before = state.arena().teacher().clone();
  state.Prologue();
  const torch::Tensor once = state.arena().teacher().clone();
  EXPECT_FALSE(once.equal(before));
  state.Prologue();
  state.Skip();
  state.Prologue();
  EXPECT_TRUE(state.arena().teacher().equal(once));
  EXPECT_EQ(state.counters(), (StepCounters{.iteration = 1, .updates = 0, .ema_updates = 1}));
  Step(state, 1);
  EXPECT_EQ(state.counters(), (StepCounters{.iteration = 2, .updates = 1, .ema_updates = 1}));
  state.Prologue();
  EXPECT_FALSE(state.arena().teacher().equal(once));
}

TEST(TrainState, ProloguesClampTheTemperature) {
  TrainState state = SmallState(1);
  const torch::NoGradGuard no_grad;
  for (const auto& [value, expected] : {std::pair(0.9f, 0.5f), std::pair(-1.0f, 0.001f)}) {
    state.model()->temperature.fill_(value);
    state.Prologue();
    EXPECT_EQ(state.model()->temperature.item<float>(), expected);
  }
}

TEST(TrainState, SkipChangesNothingButTheIteration) {
  TrainState state = SmallState(1);
  Step(state, 1);
  state.Prologue();
  std::vector<StateEntry> before = state.State();
  for (StateEntry& entry : before) entry.tensor = entry.tensor.clone();
  state.arena().gradients().fill_(std::numeric_limits<float>::quiet_NaN());
  state.Skip();
  std::vector<StateEntry> after = state.State();
  ASSERT_EQ(after[after.size() - 3].key, "counters.iteration");
  EXPECT_EQ(after[after.size() - 3].tensor.item<int64_t>(), 2);
  before.erase(before.end() - 3);
  after.erase(after.end() - 3);
  EXPECT_TRUE(Equal(before, after));
}

TEST(TrainState, HoldsEveryNameOnceWithoutPadding) {
  const TrainState state = SmallState(1);
  int64_t num_moments = 0;
  std::set<std::string> keys;
  for (const StateEntry& entry : state.State()) {
    EXPECT_TRUE(keys.insert(entry.key).second) << entry.key;
    EXPECT_TRUE(entry.tensor.is_contiguous()) << entry.key;
    EXPECT_EQ(entry.key.find(".decoder."), std::string::npos);
    if (entry.key.starts_with("exp_avg")) num_moments += entry.tensor.numel();
  }
  EXPECT_EQ(num_moments, 2 * state.arena().layout().num_values());
  EXPECT_TRUE(keys.contains("text_encoder_m.bert.embeddings.position_ids"));
}

TEST(TrainState, RestoredGoesOnBitForBit) {
  TrainState whole = SmallState(1);
  for (int64_t step = 0; step < 3; ++step) Step(whole, step);
  TrainState resumed = SmallState(9);
  Step(resumed, 77);  // whatever was there is replaced
  ASSERT_TRUE(resumed.Restore(Bytes(whole.State()), "memory").ok());
  EXPECT_TRUE(Equal(whole.State(), resumed.State()));
  for (int64_t step = 3; step < 6; ++step) {
    Step(whole, step);
    Step(resumed, step);
  }
  EXPECT_TRUE(Equal(whole.State(), resumed.State()));
  EXPECT_EQ(resumed.queue().pointer(), 6 * 3 % 5);
}

// Every value of both arenas, rounded; but τ, whose clamp no shadow follows.
void ExpectShadowsOfAllParameters(const TrainState& state) {
  for (const auto& parameter : state.model()->named_parameters()) {
    if (parameter.key() == "temp") continue;
    const torch::Tensor shadow = state.arena().ShadowOf(parameter.value());
    EXPECT_EQ(shadow.scalar_type(), torch::kBFloat16);
    EXPECT_TRUE(shadow.equal(parameter.value().to(torch::kBFloat16))) << parameter.key();
  }
}

TrainState Bf16State(uint64_t seed) {
  Albef model(TinyModelOptions(/*queue_size=*/5));
  InitializeRandomly(*model, seed);
  return TrainState(model, {.bf16_products = true});
}

TEST(TrainState, ShadowsFollowEveryChange) {
  TrainState state = Bf16State(1);
  ExpectShadowsOfAllParameters(state);
  for (int64_t step = 0; step < 2; ++step) {
    const torch::Tensor student = state.arena().parameters().clone();
    const torch::Tensor teacher = state.arena().teacher().clone();
    Step(state, step);
    EXPECT_FALSE(state.arena().parameters().equal(student));
    ExpectShadowsOfAllParameters(state);
    state.Prologue();
    EXPECT_FALSE(state.arena().teacher().equal(teacher));
    ExpectShadowsOfAllParameters(state);
  }
  const TrainState other = SmallState(2);
  ASSERT_TRUE(state.Restore(Bytes(other.State()), "memory").ok());
  EXPECT_TRUE(state.arena().parameters().equal(other.arena().parameters()));
  ExpectShadowsOfAllParameters(state);
  ASSERT_TRUE(LoadTensors(StateDict(*state.model()),
                          {{"visual_encoder.norm.weight", torch::full({16}, 3.0)}}, "file")
                  .ok());
  state.StartFrom({});
  ExpectShadowsOfAllParameters(state);
}

TEST(TrainState, ShadowsAreNoPartOfIt) {
  const TrainState with = Bf16State(1), without = SmallState(1);
  EXPECT_TRUE(Equal(with.State(), without.State()));
}

TEST(TrainState, RestoreRefusesWhatDoesNotFitAndChangesNothing) {
  TrainState state = SmallState(1);
  const TrainState other = SmallState(2);
  std::vector<StateEntry> before = state.State();
  for (StateEntry& entry : before) entry.tensor = entry.tensor.clone();
  const std::vector<StateEntry> other_state = other.State();
  const std::vector<NamedTensor> good = Bytes(other_state);
  const auto message = [&](const std::vector<NamedTensor>& tensors) {
    const absl::Status status = state.Restore(tensors, "step-7");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(Equal(state.State(), before));
    return std::string(status.message());
  };
  std::vector<NamedTensor> bad = good;
  bad.pop_back();
  EXPECT_THAT(message(bad), HasSubstr("step-7: counters.ema_updates is missing"));
  bad = good;
  bad.push_back(good[0]);
  EXPECT_THAT(message(bad), HasSubstr("twice"));
  bad = good;
  bad.push_back({"odd", good[0].tensor});
  EXPECT_THAT(message(bad), HasSubstr("odd has no place"));
  bad = good;
  bad[1].tensor.shape = {5, 8};
  EXPECT_THAT(message(bad), HasSubstr("image_queue"));
  const torch::Tensor five = torch::full({1}, 5, torch::kInt64);
  bad = good;
  ASSERT_EQ(bad[3].name, "queue_ptr");
  bad[3].tensor = ViewTensor(five);
  EXPECT_THAT(message(bad), HasSubstr("outside the queue of 5"));
  const torch::Tensor nine = torch::full({}, 9, torch::kInt64);
  bad = good;
  bad.back().tensor = ViewTensor(nine);
  EXPECT_THAT(message(bad), HasSubstr("impossible counters"));
}

}  // namespace
}  // namespace albef
