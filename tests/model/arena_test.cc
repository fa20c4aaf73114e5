#include "model/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "model/feature_queue.h"
#include "model/optimizer.h"

namespace albef {
namespace {

// A student encoder with a tied pair, its teacher, and a head without a teacher.
struct TinyEncoder : torch::nn::Module {
  explicit TinyEncoder(bool trainable) {
    table = register_parameter("table", torch::randn({5, 3}), trainable);
    bias = register_parameter("bias", torch::randn({5}), trainable);
    register_parameter("decoder", table, trainable);
  }
  torch::Tensor table, bias;
};

struct TinyModel : torch::nn::Module {
  TinyModel() {
    temp = register_parameter("temp", torch::tensor(0.07f));
    encoder = register_module("encoder", std::make_shared<TinyEncoder>(/*trainable=*/true));
    head = register_module("head", torch::nn::Linear(3, 2));
    encoder_m = register_module("encoder_m", std::make_shared<TinyEncoder>(/*trainable=*/false));
  }

  torch::Tensor Forward(const torch::Tensor& x) {
    return (head(x).sum() * encoder->table.square().sum() + encoder->bias.sum()) * temp;
  }

  torch::Tensor temp;
  std::shared_ptr<TinyEncoder> encoder, encoder_m;
  torch::nn::Linear head{nullptr};
};

TEST(Arena, KeepsEveryValueAndHoldsTiedParametersOnce) {
  TinyModel model;
  const torch::Tensor table = model.encoder->table.detach().clone();
  const torch::Tensor teacher = model.encoder_m->table.detach().clone();
  const Arena arena(model);
  arena.CheckAliasing();
  EXPECT_EQ(arena.layout().entries().size(), 5u);
  EXPECT_EQ(arena.layout().num_values(), 1 + 15 + 5 + 6 + 2);
  const LayoutEntry& entry = *arena.layout().Find("encoder.table");
  EXPECT_TRUE(Arena::View(arena.parameters(), entry).equal(table));
  EXPECT_TRUE(Arena::View(arena.teacher(), entry).equal(teacher));
  arena.parameters().fill_(3);
  EXPECT_TRUE(model.named_parameters()["encoder.decoder"].eq(3).all().item<bool>());
}

TEST(Arena, BackwardAccumulatesIntoTheBoundGradients) {
  TinyModel model;
  Arena arena(model);
  model.Forward(torch::ones({1, 3})).backward();
  arena.CheckAliasing();
  const torch::Tensor first = arena.gradients();
  EXPECT_GT(first.abs().sum().item<float>(), 0);
  const torch::Tensor copy = first.clone();

  arena.BindGradients(arena.NewFlat());
  model.Forward(torch::ones({1, 3})).backward();
  arena.CheckAliasing();
  EXPECT_TRUE(first.equal(copy)) << "the earlier gradients were touched";
  EXPECT_TRUE(arena.gradients().equal(copy));
}

TEST(Arena, AWatchIsToldOnceOfEachGradientWhenItIsFinal) {
  TinyModel model;
  const Arena arena(model);
  std::map<std::string, torch::Tensor> told;
  const auto loss = [&] {
    // The tied table under both its names; nothing of the head.
    return model.encoder->table.square().sum() +
           model.encoder->named_parameters()["decoder"].sum() * model.encoder->bias.sum();
  };
  {
    const Arena::GradientWatch watch(arena, [&](const LayoutEntry& entry) {
      EXPECT_FALSE(told.contains(entry.key)) << entry.key;
      told[entry.key] = Arena::View(arena.gradients(), entry).clone();
    });
    loss().backward();
    ASSERT_THAT(told, testing::SizeIs(2));
    for (const auto& [key, gradient] : told) {
      EXPECT_TRUE(gradient.equal(Arena::View(arena.gradients(), *arena.layout().Find(key)))) << key;
    }
    EXPECT_TRUE(told.contains("encoder.table") && told.contains("encoder.bias"));
    told.clear();
    loss().backward();
    EXPECT_THAT(told, testing::SizeIs(2));
    told.clear();
  }
  loss().backward();
  EXPECT_THAT(told, testing::IsEmpty());
}

TEST(Arena, NoticesWhatLeavesIt) {
  TinyModel model;
  Arena arena(model);
  model.to(torch::kFloat64);
  EXPECT_THROW(arena.CheckAliasing(), c10::Error);

  TinyModel other;
  Arena other_arena(other);
  other.zero_grad();
  EXPECT_THROW(other_arena.CheckAliasing(), c10::Error);
}

TEST(Arena, RefusesAFrozenParameterThatIsNoTeacher) {
  TinyModel model;
  model.head->weight.set_requires_grad(false);
  EXPECT_THROW(Arena{model}, c10::Error);
}

class AdamWTest : public testing::TestWithParam<torch::ScalarType> {};

// The update written out, one parameter after the other, in fp64.
TEST_P(AdamWTest, FollowsTheFormulaAndKeepsPaddingZero) {
  TinyModel model;
  model.to(GetParam());
  const Arena arena(model);
  const AdamWOptions options;
  AdamW adamw(arena, options);
  torch::Tensor p = arena.parameters().to(torch::kFloat64, /*non_blocking=*/false, /*copy=*/true);
  torch::Tensor m = torch::zeros_like(p), v = torch::zeros_like(p), decay = torch::zeros_like(p);
  torch::Tensor is_value = torch::zeros_like(p);
  for (const LayoutEntry& entry : arena.layout().entries()) {
    Arena::View(is_value, entry).fill_(1);
    if (entry.group == ParameterGroup::kDecay)
      Arena::View(decay, entry).fill_(options.weight_decay);
  }
  for (int64_t t = 1; t <= 20; ++t) {
    const double lr = 1e-2 / static_cast<double>(t);
    const torch::Tensor g = torch::randn_like(p).mul_(is_value);
    arena.gradients().copy_(g);
    adamw.Step(arena, lr, t);
    const torch::Tensor grad = arena.gradients().to(torch::kFloat64);
    p = p * (1 - lr * decay);
    m = options.beta1 * m + (1 - options.beta1) * grad;
    v = options.beta2 * v + (1 - options.beta2) * grad * grad;
    const double c1 = 1 - std::pow(options.beta1, t), c2 = 1 - std::pow(options.beta2, t);
    p = p - lr / c1 * m / (v.sqrt() / std::sqrt(c2) + options.eps);
  }
  const double tolerance = GetParam() == torch::kFloat64 ? 1e-14 : 1e-6;
  const auto error = [](const torch::Tensor& a, const torch::Tensor& b) {
    return (a.to(torch::kFloat64) - b).abs().max().item<double>();
  };
  EXPECT_LT(error(arena.parameters(), p), tolerance);
  EXPECT_LT(error(adamw.exp_avg(), m), tolerance);
  EXPECT_LT(error(adamw.exp_avg_sq(), v), tolerance);
  for (const torch::Tensor& flat : {arena.parameters(), adamw.exp_avg(), adamw.exp_avg_sq()}) {
    EXPECT_TRUE(flat.masked_select(is_value.eq(0)).eq(0).all().item<bool>()) << "padding moved";
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, AdamWTest, testing::Values(torch::kFloat32, torch::kFloat64));

TEST(NonFiniteFlag, SeesOneNaNOrInfinityAmongLargeValues) {
  torch::Tensor gradients = torch::full({1000}, 3e38f);
  EXPECT_FALSE(NonFiniteFlag(gradients).item<bool>());
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    torch::Tensor damaged = gradients.clone();
    damaged[777] = bad;
    EXPECT_TRUE(NonFiniteFlag(damaged).item<bool>()) << bad;
  }
}

TEST(Momentum, MovesTheTeacherTowardsTheStudent) {
  TinyModel model;
  const Arena arena(model);
  const torch::Tensor expected =
      0.9 * model.encoder_m->table.detach() + 0.1 * model.encoder->table.detach();
  UpdateTeacher(arena, 0.9);
  EXPECT_TRUE(model.encoder_m->table.allclose(expected, 1e-6, 1e-7));
}

struct Queues {
  explicit Queues(int64_t size)
      : image(torch::zeros({2, size})),
        text(torch::zeros({2, size})),
        pointer(torch::zeros({1}, torch::kInt64)),
        queue(image, text, pointer) {}

  // Enqueues features numbered from `first`; texts are the negated images.
  void Push(int64_t first, int64_t count) {
    const torch::Tensor features =
        torch::arange(first, first + count, torch::kFloat32).unsqueeze(1).expand({count, 2});
    queue.Enqueue(features, -features);
  }
  std::vector<float> Columns() const {
    EXPECT_TRUE(image.equal(-text));
    EXPECT_TRUE(image[0].equal(image[1]));
    return {image[0].data_ptr<float>(), image[0].data_ptr<float>() + image.size(1)};
  }

  torch::Tensor image, text, pointer;
  FeatureQueue queue;
};

TEST(FeatureQueue, WrapsAroundWhereTheBatchDoesNotDivideIt) {
  Queues queues(5);
  queues.Push(1, 3);
  EXPECT_THAT(queues.Columns(), testing::ElementsAre(1, 2, 3, 0, 0));
  queues.Push(4, 3);
  EXPECT_THAT(queues.Columns(), testing::ElementsAre(6, 2, 3, 4, 5));
  EXPECT_EQ(queues.queue.pointer(), 1);
  EXPECT_EQ(queues.pointer.item<int64_t>(), 1);
}

TEST(FeatureQueue, ABatchLargerThanItIsAsIfWrittenOneByOne) {
  for (int64_t start = 0; start < 5; ++start) {
    for (const int64_t count : {4, 5, 6, 13}) {
      Queues at_once(5), one_by_one(5);
      at_once.Push(100, start);
      one_by_one.Push(100, start);
      at_once.Push(1, count);
      for (int64_t i = 1; i <= count; ++i) one_by_one.Push(i, 1);
      EXPECT_EQ(at_once.Columns(), one_by_one.Columns()) << start << " " << count;
      EXPECT_EQ(at_once.queue.pointer(), one_by_one.queue.pointer());
    }
  }
}

TEST(FeatureQueue, RefusesAPointerOutsideIt) {
  Queues queues(5);
  queues.pointer.fill_(5);
  EXPECT_THROW(queues.queue.ReadPointer(), c10::Error);
  queues.pointer.fill_(3);
  queues.queue.ReadPointer();
  EXPECT_EQ(queues.queue.pointer(), 3);
}

}  // namespace
}  // namespace albef
