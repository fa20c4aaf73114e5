// Retrieval of a model: scores and recall against the authors' code, and what surrounds them.
#include "worker/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "dataloader/image_transform.h"
#include "model/initialization.h"
#include "model/state_dict.h"
#include "tests/model/golden.h"
#include "tests/model/tiny_model.h"

namespace albef {
namespace {

using testing::HasSubstr;

constexpr const char* kFolder = "downstream";

class RetrievalGolden : public testing::Test {
 protected:
  void SetUp() override {
    const std::filesystem::path file = golden::Root() / kFolder / "retrieval_eval.json";
    if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " does not exist";
    golden_ = golden::ReadJson("retrieval_eval", kFolder);
    tensors_ = golden::ReadTensors("retrieval_eval", kFolder);
  }

  // The model of the fixture. Its text encoder has no masked-language head, ours keeps its own.
  Albef MakeModel(torch::ScalarType dtype) const {
    const nlohmann::json& sizes = golden_.at("hparams");
    AlbefOptions options;
    options.vision = {.image_res = sizes.at("img"),
                      .patch_size = sizes.at("patch"),
                      .width = sizes.at("vdim"),
                      .depth = sizes.at("vdepth"),
                      .heads = sizes.at("vheads"),
                      .mlp_ratio = sizes.at("vit_mlp_ratio"),
                      .layer_norm_eps = sizes.at("vit_ln_eps")};
    options.bert.vocab_size = sizes.at("vocab");
    options.bert.hidden_size = sizes.at("hid");
    options.bert.num_hidden_layers = sizes.at("layers");
    options.bert.num_attention_heads = sizes.at("heads");
    options.bert.intermediate_size = sizes.at("inter");
    options.bert.max_position_embeddings = sizes.at("maxpos");
    options.bert.type_vocab_size = sizes.at("type_vocab");
    options.bert.fusion_layer = sizes.at("fusion");
    options.bert.encoder_width = sizes.at("encoder_width");
    options.bert.layer_norm_eps = sizes.at("bert_ln_eps");
    options.embed_dim = sizes.at("embed");
    options.queue_size = sizes.at("queue");
    Albef model(options);

    TensorMap state;
    for (const char* file : {"base", "retrieval_train"}) {
      for (const auto& [name, tensor] : golden::ReadTensors(file, kFolder)) {
        if (!name.starts_with("init.") || name == "init.idx_queue") continue;
        std::string key = name.substr(5);
        for (const std::string encoder : {"text_encoder.", "text_encoder_m."}) {
          if (key.starts_with(encoder)) key.insert(encoder.size(), "bert.");
        }
        state.emplace(key, tensor);
      }
    }
    const auto report = LoadTensors(StateDict(*model), state, "retrieval");
    EXPECT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(report->unexpected, testing::IsEmpty());
    for (const std::string& key : report->missing) EXPECT_THAT(key, HasSubstr(".cls.predictions."));
    model->to(dtype);
    model->to(golden::TestDevice());
    model->eval();
    return model;
  }

  nlohmann::json golden_;
  golden::TensorMap tensors_;
};

TEST_F(RetrievalGolden, ScoresAreThoseOfTheReference) {
  const torch::NoGradGuard no_grad;
  for (const auto& [dtype, tolerance] :
       {std::pair(torch::kFloat64, 1e-10), std::pair(torch::kFloat32, 3e-5)}) {
    SCOPED_TRACE(c10::toString(dtype));
    Albef model = MakeModel(dtype);
    const torch::Device device = golden::TestDevice();
    const ImageEncoding images = model->EncodeImage(tensors_.at("in.image").to(device, dtype));
    const torch::Tensor mask_RT = tensors_.at("in.attention_mask").to(device);
    const TextEncoding texts = model->EncodeText(tensors_.at("in.input_ids").to(device), mask_RT);
    EXPECT_TRUE(golden::RelClose(images.feat_BE, tensors_.at("out.image_embeds"), tolerance));
    EXPECT_TRUE(golden::RelClose(texts.feat_BE, tensors_.at("out.text_embeds"), tolerance));

    const auto scores = ScoreRetrieval(model,
                                       {.image_embeds_IPD = images.embeds_BPD,
                                        .image_feat_IE = images.feat_BE,
                                        .text_embeds_RTD = texts.embeds_BTD,
                                        .text_feat_RE = texts.feat_BE,
                                        .text_mask_RT = mask_RT},
                                       {.batch_size = 3,  // several for an image's candidates
                                        .rerank_top_k = golden_.at("hparams").at("k_test")});
    ASSERT_TRUE(scores.ok()) << scores.status();
    EXPECT_TRUE(golden::RelClose(scores->similarity_IR, tensors_.at("out.sims"), tolerance));
    for (const auto& [actual, name] : {std::pair(scores->text_score_IR.cpu(), "out.score_i2t"),
                                       std::pair(scores->image_score_RI.cpu(), "out.score_t2i")}) {
      const torch::Tensor& expected = tensors_.at(name);
      const torch::Tensor is_ranked = expected != -100;
      EXPECT_TRUE(actual.ne(-100).equal(is_ranked)) << name;
      EXPECT_TRUE(golden::RelClose(actual.masked_select(is_ranked),
                                   expected.masked_select(is_ranked), tolerance))
          << name;
    }
  }
}

TEST_F(RetrievalGolden, RecallIsThatOfTheReferenceWhereTiesGoToTheSmallerIndex) {
  ASSERT_FALSE(golden_.at("metrics").empty());
  for (const auto& [name, metric] : golden_.at("metrics").items()) {
    const torch::Tensor& score_IR = tensors_.at("metric." + name + ".score_i2t");
    std::vector<int64_t> images(static_cast<size_t>(score_IR.size(0)));
    std::vector<int64_t> texts(static_cast<size_t>(score_IR.size(1)));
    const size_t texts_per_image = metric.at("captions_per_image");
    for (size_t i = 0; i < images.size(); ++i) images[i] = static_cast<int64_t>(i);
    for (size_t r = 0; r < texts.size(); ++r) texts[r] = static_cast<int64_t>(r / texts_per_image);

    const nlohmann::json& expected = metric.at("tie_rule_smaller_index_first");
    const auto expect = [&, &name = name](const Recall& recall, const std::string& prefix) {
      for (const auto& [suffix, value] :
           {std::pair("r1", recall.at_1), {"r5", recall.at_5}, {"r10", recall.at_10}}) {
        EXPECT_NEAR(100 * value, expected.at(prefix + suffix).get<double>(), 1e-9)
            << name << " " << prefix << suffix;
      }
    };
    expect(RecallFromScores(score_IR, images, texts), "txt_");
    expect(RecallFromScores(tensors_.at("metric." + name + ".score_t2i"), texts, images), "img_");
  }
}

const std::filesystem::path kImages = "tests/golden/image-own/encoded";

// Five images, the fourth without a text, the second with two; texts of two to five tokens.
EvalSet SmallSet() {
  EvalSet set;
  for (const char* name : {"420.jpg", "rgba.png", "lossy.webp", "gray.png", "progressive.jpg"}) {
    set.image_paths.push_back(kImages / name);
  }
  set.image_of_text = {0, 1, 1, 2, 4};
  set.texts_of_image = {{0}, {1, 2}, {3}, {}, {4}};
  set.texts.resize(set.image_of_text.size());
  std::vector<std::vector<int64_t>> ids;
  for (int64_t text = 0; text < set.num_texts(); ++text) {
    ids.emplace_back(static_cast<size_t>(2 + text % 4), 10 + text);
  }
  const std::vector<std::span<const int64_t>> rows(ids.begin(), ids.end());
  set.tokens = PadTokens(rows, 0, 8);
  return set;
}

absl::StatusOr<RetrievalResult> Evaluate(Albef& model, const EvalSet& set,
                                         const EvaluationOptions& options) {
  const auto loader =
      EvaluationImageLoader::Create({.image_res = static_cast<int>(options.image_res)});
  EXPECT_TRUE(loader.ok()) << loader.status();
  return EvaluateRetrieval(model, set, *loader, options);
}

EvaluationOptions SmallOptions() {
  return {.image_res = 16, .batch_size = 2, .rerank_top_k = 2, .num_threads = 3};
}

Albef TinyModel() {
  Albef model(TinyModelOptions(/*queue_size=*/8));
  InitializeRandomly(*model, 3);
  return model;
}

bool SameRecall(const Recall& a, const Recall& b) {
  return a.at_1 == b.at_1 && a.at_5 == b.at_5 && a.at_10 == b.at_10;
}

TEST(EvaluateRetrieval, LeavesOutImagesWithoutATextAndRestoresTheMode) {
  Albef model = TinyModel();
  const auto result = Evaluate(model, SmallSet(), SmallOptions());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(model->is_training());
  EXPECT_EQ(result->num_images, 4);
  EXPECT_EQ(result->num_texts, 5);
  EXPECT_DOUBLE_EQ(result->text_to_image.chance.at_1, 0.25);
  EXPECT_EQ(result->text_to_image.itc.at_5, 1);
  EXPECT_EQ(result->image_to_text.itm.at_5, 1);
}

TEST(EvaluateRetrieval, DependsNeitherOnBatchesNorOnThreads) {
  Albef model = TinyModel();
  const auto expected = Evaluate(model, SmallSet(), SmallOptions());
  ASSERT_TRUE(expected.ok()) << expected.status();
  EvaluationOptions options = SmallOptions();
  options.batch_size = 64;
  options.num_threads = 1;
  const auto result = Evaluate(model, SmallSet(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(SameRecall(result->image_to_text.itc, expected->image_to_text.itc));
  EXPECT_TRUE(SameRecall(result->image_to_text.itm, expected->image_to_text.itm));
  EXPECT_TRUE(SameRecall(result->text_to_image.itc, expected->text_to_image.itc));
  EXPECT_TRUE(SameRecall(result->text_to_image.itm, expected->text_to_image.itm));
}

TEST(EvaluateRetrieval, EndsAtAnImageThatCannotBeRead) {
  Albef model = TinyModel();
  EvalSet set = SmallSet();
  set.image_paths[2] = kImages / "none.webp";
  const absl::Status status = Evaluate(model, set, SmallOptions()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none.webp"));
  EXPECT_TRUE(model->is_training());
}

TEST(EvaluateRetrieval, CanBeCancelledAtEveryBatch) {
  Albef model = TinyModel();
  int num_questions = 0;
  EvaluationOptions options = SmallOptions();
  options.cancelled = [&] {
    ++num_questions;
    return false;
  };
  ASSERT_TRUE(Evaluate(model, SmallSet(), options).ok());
  const int num_batches = num_questions;
  EXPECT_GE(num_batches, 2 + 3 + 4);  // images, texts, candidates of each image
  for (int stop = 0; stop < num_batches; ++stop) {
    num_questions = 0;
    options.cancelled = [&] { return num_questions++ == stop; };
    EXPECT_EQ(Evaluate(model, SmallSet(), options).status().code(), absl::StatusCode::kCancelled)
        << stop;
  }
}

}  // namespace
}  // namespace albef
