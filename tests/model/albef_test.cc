#include "model/albef.h"

#include <gmock/gmock.h>
#include <torch/autograd.h>
#include <torch/nn/functional/embedding.h>
#include <torch/nn/functional/normalization.h>
#include <torch/utils.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "model/attention.h"
#include "model/losses.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

AlbefOptions SmallOptions() {
  AlbefOptions options;
  options.vision = {.image_res = 16, .patch_size = 8, .width = 24, .depth = 2, .heads = 3};
  options.bert = {.vocab_size = 50,
                  .hidden_size = 16,
                  .num_hidden_layers = 4,
                  .num_attention_heads = 2,
                  .intermediate_size = 32,
                  .max_position_embeddings = 12,
                  .fusion_layer = 2,
                  .encoder_width = 24};
  options.embed_dim = 8;
  options.queue_size = 10;
  return options;
}

Albef SmallModel(const AlbefOptions& options) {
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  Albef model(options);
  for (torch::Tensor& parameter : model->parameters()) {
    if (parameter.dim() > 0) parameter.add_(torch::randn_like(parameter), 0.2);
  }
  for (torch::Tensor* queue : {&model->image_queue_EQ, &model->text_queue_EQ}) {
    queue->copy_(torch::nn::functional::normalize(
        torch::randn_like(*queue), torch::nn::functional::NormalizeFuncOptions().dim(0)));
  }
  return model;
}

PretrainInputs SmallBatch(const AlbefOptions& options, int64_t batch) {
  torch::manual_seed(2);
  const int64_t res = options.vision.image_res;
  PretrainInputs inputs;
  inputs.image_BCHW = torch::randn({batch, 3, res, res});
  inputs.input_ids_BT = torch::randint(1, options.bert.vocab_size, {batch, 7}, at::kLong);
  inputs.attention_mask_BT = torch::ones({batch, 7}, at::kLong);
  inputs.attention_mask_BT[0].slice(0, 4).zero_();
  inputs.mlm_input_ids_BT = inputs.input_ids_BT.clone();
  inputs.mlm_input_ids_BT.slice(1, 1, 3).fill_(3);
  inputs.masked_index_N = torch::arange(batch) * 7 + 1;
  inputs.masked_label_N = inputs.input_ids_BT.select(1, 1).contiguous();
  return inputs;
}

double TotalLoss(const PretrainOutput& output) {
  return (output.loss_mlm + output.loss_itc + output.loss_itm).item<double>();
}

TEST(Albef, FullSizeModelHasTheAuthorsNamesAndShapesInTheirOrder) {
  const Albef model{AlbefOptions()};
  std::map<std::string, std::string> shapes;
  std::vector<std::string> own_parameters;
  int64_t trainable = 0;
  const auto shape = [](const torch::Tensor& tensor) {
    std::ostringstream text;
    text << "(";
    for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
    text << (tensor.dim() == 1 ? ",)" : ")");
    return text.str();
  };
  for (const auto& item : model->named_parameters()) {
    shapes[item.key()] = shape(item.value());
    own_parameters.push_back(item.key());
    if (item.value().requires_grad()) trainable += item.value().numel();
  }
  for (const auto& item : model->named_buffers()) shapes[item.key()] = shape(item.value());
  EXPECT_EQ(trainable, 209937725);

  std::ifstream file("tests/golden/keys.txt");
  std::vector<std::string> parameters;
  std::string line;
  int count = 0;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string key, expected_shape;
    std::getline(fields, key, '\t');
    std::getline(fields, expected_shape, '\t');
    ++count;
    if (key.find(".cls.predictions.decoder.") != std::string::npos) continue;  // tied
    ASSERT_TRUE(shapes.contains(key)) << key;
    EXPECT_EQ(shapes.at(key), expected_shape) << key;
    shapes.erase(key);
    const bool buffer = key.find("queue") != std::string::npos || key.ends_with("position_ids");
    if (!buffer) parameters.push_back(key);
  }
  EXPECT_EQ(count, 844);
  EXPECT_TRUE(shapes.empty()) << shapes.begin()->first << " is not among the authors' names";
  EXPECT_EQ(own_parameters, parameters);
}

TEST(Albef, DrawnNegativesGiveTheLossesOfTheSameNegativesInjected) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  model->eval();
  PretrainInputs batch = SmallBatch(options, 4);
  PretrainTrace trace;
  const PretrainOutput drawn = model->Forward(batch, 0.4, &trace);
  batch.negatives = trace.negatives;
  const PretrainOutput injected = model->Forward(batch, 0.4);
  EXPECT_EQ(TotalLoss(drawn), TotalLoss(injected));
  for (const torch::Tensor& index : {trace.negatives.image_B, trace.negatives.text_B}) {
    EXPECT_FALSE((index == torch::arange(4)).any().item<bool>()) << "a pair is its own negative";
  }
}

TEST(Albef, EqualSeedsGiveEqualStepsWithDropout) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  const PretrainInputs batch = SmallBatch(options, 3);
  std::vector<double> losses;
  for (const uint64_t seed : {5, 5, 6}) {
    torch::manual_seed(seed);
    losses.push_back(TotalLoss(model->Forward(batch, 0.4)));
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_NE(losses[0], losses[2]);
}

TEST(Albef, TeacherDropoutCanBeSwitchedOff) {
  for (const bool dropout : {true, false}) {
    AlbefOptions options = SmallOptions();
    options.teacher_dropout = dropout;
    Albef model = SmallModel(options);
    model->eval();
    model->train();
    const PretrainInputs batch = SmallBatch(options, 3);
    const torch::Tensor first = model->Forward(batch, 0.4).text_feat_m_BE;
    const torch::Tensor second = model->Forward(batch, 0.4).text_feat_m_BE;
    EXPECT_EQ(first.equal(second), !dropout);
  }
}

TEST(Albef, TeacherGetsNoGradientAndEveryStudentParameterOne) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  const PretrainOutput output = model->Forward(SmallBatch(options, 3), 0.4);
  (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
  for (const auto& item : model->named_parameters()) {
    const bool teacher = item.key().find("_m.") != std::string::npos;
    EXPECT_EQ(item.value().grad().defined(), !teacher) << item.key();
  }
  EXPECT_FALSE(output.image_feat_m_BE.requires_grad());
  EXPECT_FALSE(output.text_feat_m_BE.requires_grad());
}

TEST(Albef, OneFusionAndOneTextLayerAreEnough) {
  AlbefOptions options = SmallOptions();
  options.bert.fusion_layer = 1;
  options.bert.num_hidden_layers = 2;
  Albef model = SmallModel(options);
  EXPECT_TRUE(std::isfinite(TotalLoss(model->Forward(SmallBatch(options, 2), 0.4))));
}

TEST(Albef, EvaluationAgreesWithThePassOfTraining) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  model->eval();
  const torch::NoGradGuard no_grad;
  const PretrainInputs batch = SmallBatch(options, 4);
  PretrainTrace trace;
  model->Forward(batch, 0.4, &trace);

  const ImageEncoding image = model->EncodeImage(batch.image_BCHW);
  const TextEncoding text = model->EncodeText(batch.input_ids_BT, batch.attention_mask_BT);
  EXPECT_TRUE(at::allclose(image.feat_BE, trace.image_feat_BE, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(text.feat_BE, trace.text_feat_BE, 1e-5, 1e-6));
  const torch::Tensor logits_B2 = model->MatchLogits(model->ProjectImage(image.embeds_BPD),
                                                     text.embeds_BTD, batch.attention_mask_BT);
  EXPECT_TRUE(at::allclose(logits_B2, trace.itm_logits_R2.narrow(0, 0, 4), 1e-4, 1e-5));
}

TEST(Albef, ManyTextsWithOneImageScoreAsThePairsDo) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  model->eval();
  const torch::NoGradGuard no_grad;
  const PretrainInputs batch = SmallBatch(options, 4);
  const torch::Tensor image_1PD = model->EncodeImage(batch.image_BCHW.narrow(0, 2, 1)).embeds_BPD;
  const TextEncoding text = model->EncodeText(batch.input_ids_BT, batch.attention_mask_BT);
  const torch::Tensor shared_R2 =
      model->MatchLogits(model->ProjectImage(image_1PD), text.embeds_BTD, batch.attention_mask_BT);
  const torch::Tensor copied_R2 = model->MatchLogits(
      model->ProjectImage(image_1PD.expand({4, -1, -1})), text.embeds_BTD, batch.attention_mask_BT);
  EXPECT_TRUE(at::allclose(shared_R2, copied_R2, 1e-4, 1e-5));
}

TEST(Albef, WrongShapesSayWhatWasExpected) {
  const AlbefOptions options = SmallOptions();
  Albef model = SmallModel(options);
  const auto message = [&](const PretrainInputs& inputs) -> std::string {
    try {
      model->Forward(inputs, 0.4);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  PretrainInputs large_image = SmallBatch(options, 2);
  large_image.image_BCHW = torch::zeros({2, 3, 24, 24});
  EXPECT_THAT(message(large_image), HasSubstr("expected (B, 3, 16, 16), got [2, 3, 24, 24]"));
  PretrainInputs long_text = SmallBatch(options, 2);
  for (torch::Tensor* ids :
       {&long_text.input_ids_BT, &long_text.mlm_input_ids_BT, &long_text.attention_mask_BT}) {
    *ids = torch::ones({2, 13}, at::kLong);
  }
  EXPECT_THAT(message(long_text), HasSubstr("max_position_embeddings is 12"));
  PretrainInputs few_images = SmallBatch(options, 2);
  few_images.image_BCHW = few_images.image_BCHW.narrow(0, 0, 1);
  EXPECT_THAT(message(few_images), HasSubstr("1 images for 2 texts"));
  EXPECT_THAT(message(SmallBatch(options, 1)), HasSubstr("batch_size must be at least 2"));
}

TEST(AlbefOptions, TheFirstImpossibleOptionIsNamed) {
  EXPECT_TRUE(Validate(AlbefOptions()).ok());
  const auto message = [](auto change) {
    AlbefOptions options;
    change(options);
    return std::string(Validate(options).message());
  };
  EXPECT_THAT(message([](AlbefOptions& o) { o.vision.image_res = 250; }), HasSubstr("image_res"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.vision.heads = 7; }), HasSubstr("vision heads"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.vision.depth = 0; }), HasSubstr("depth"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.bert.fusion_layer = 12; }),
              HasSubstr("fusion_layer"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.bert.encoder_width = 384; }),
              HasSubstr("encoder_width"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.bert.hidden_dropout_prob = 1; }),
              HasSubstr("hidden_dropout_prob"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.bert.pad_token_id = 30522; }),
              HasSubstr("pad_token_id"));
  EXPECT_THAT(message([](AlbefOptions& o) { o.temperature = std::nan(""); }), HasSubstr("temp"));
}

TEST(HardNegatives, FollowTheSoftmaxWithoutTheDiagonal) {
  torch::manual_seed(3);
  const torch::Tensor scores_BB =
      torch::tensor({{5.0, 0.0, 1.0}, {2.0, 9.0, 0.0}, {0.0, 0.0, 50.0}}, at::kDouble);
  const int draws = 20000;
  torch::Tensor counts_BB = torch::zeros({3, 3}, at::kDouble);
  for (int i = 0; i < draws; ++i) {
    counts_BB.scatter_add_(1, DrawHardNegatives(scores_BB).unsqueeze(1),
                           torch::ones({3, 1}, at::kDouble));
  }
  torch::Tensor masked_BB = scores_BB.clone();
  masked_BB.diagonal().fill_(-std::numeric_limits<double>::infinity());
  const torch::Tensor expected_BB = at::softmax(masked_BB, 1);
  // Five standard deviations of a proportion.
  EXPECT_LT((counts_BB / draws - expected_BB).abs().max().item<double>(),
            5 * std::sqrt(0.25 / draws));
  EXPECT_EQ(counts_BB.diagonal().sum().item<double>(), 0);
}

TEST(HardNegatives, ATinyTemperatureLeavesTheOtherPairsReachable) {
  const torch::Tensor scores_BB =
      torch::tensor({{1000.0, -1000.0, -900.0}, {0.0, 1000.0, 0.0}, {-1000.0, 0.0, 1000.0}});
  const torch::Tensor drawn_B = DrawHardNegatives(scores_BB);
  EXPECT_EQ(drawn_B[0].item<int64_t>(), 2);
  EXPECT_EQ(drawn_B[2].item<int64_t>(), 1);
}

TEST(HardNegatives, ScoresThatAreNotFiniteGiveSomeIndexOfTheBatch) {
  // A step with such scores is skipped at the gate; it must get there.
  const torch::Tensor drawn_B =
      DrawHardNegatives(torch::full({4, 4}, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_TRUE(((drawn_B >= 0) & (drawn_B < 4)).all().item<bool>());
}

TEST(SoftHardCrossEntropy, EqualsTheDenseFormInValueAndGradient) {
  torch::manual_seed(4);
  const torch::Tensor teacher_NV = torch::randn({5, 9}, at::kDouble);
  const torch::Tensor label_N = torch::randint(9, {5}, at::kLong);
  for (const double alpha : {0.0, 0.4, 1.0}) {
    const torch::Tensor logits_NV = torch::randn({5, 9}, at::kDouble).requires_grad_();
    const torch::Tensor targets_NV =
        at::softmax(teacher_NV, 1) * alpha +
        torch::nn::functional::one_hot(label_N, 9).to(at::kDouble) * (1 - alpha);
    const torch::Tensor dense = -(targets_NV * at::log_softmax(logits_NV, 1)).sum() / 5;
    const torch::Tensor fused =
        SoftHardCrossEntropy(logits_NV, alpha == 0 ? torch::Tensor() : teacher_NV, label_N, alpha);
    EXPECT_NEAR(fused.item<double>(), dense.item<double>(), 1e-14);
    // A factor on the loss must reach the gradient.
    const torch::Tensor expected = torch::autograd::grad({dense * 3}, {logits_NV})[0];
    const torch::Tensor actual = torch::autograd::grad({fused * 3}, {logits_NV})[0];
    EXPECT_LT((actual - expected).abs().max().item<double>(), 1e-15);
  }
}

TEST(Attention, HeadsOfOddSizesMasksAndPlainFormAgree) {
  torch::manual_seed(5);
  torch::Tensor query = torch::randn({2, 3, 4, 5}, at::kDouble);
  const torch::Tensor key = torch::randn({2, 3, 6, 5}, at::kDouble);
  const torch::Tensor value = torch::randn({2, 3, 6, 5}, at::kDouble);
  torch::Tensor mask_B11S = torch::zeros({2, 1, 1, 6}, at::kDouble);
  mask_B11S[1].slice(2, 4).fill_(-10000);
  const torch::Tensor expected =
      at::softmax(at::matmul(query, key.transpose(2, 3)) / std::sqrt(5.0) + mask_B11S, 3)
          .matmul(value);
  for (const bool gradient : {false, true}) {
    query.set_requires_grad(gradient);
    const torch::Tensor actual = Attention(query, key, value, {.mask_B11S = mask_B11S});
    EXPECT_LT((actual - expected).abs().max().item<double>(), 1e-14);
  }
}

}  // namespace
}  // namespace albef
