#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <list>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "common/file.h"
#include "formats/pth.h"
#include "formats/safetensors.h"
#include "model/initialization.h"
#include "model/pretrained.h"
#include "model/tensor_io.h"
#include "model/train_state.h"
#include "model/weights_file.h"
#include "tests/model/tiny_model.h"

namespace albef {
namespace {

using testing::HasSubstr;

AlbefOptions SmallOptions() { return TinyModelOptions(/*queue_size=*/24); }

TensorMap CopyOf(const AlbefImpl& model) {
  TensorMap tensors;
  for (const StateEntry& entry : StateDict(model)) {
    tensors.emplace(entry.key, entry.tensor.detach().clone());
  }
  return tensors;
}

PickleValue Dict(const TensorMap& tensors) {
  std::vector<PickleValue::Item> items;
  for (const auto& [key, tensor] : tensors) {
    PickleTensor value;
    value.view = ViewTensor(tensor);
    items.emplace_back(key, PickleValue::Tensor(std::move(value)));
  }
  return PickleValue::OrderedDict(std::move(items));
}

void WriteTensors(const std::filesystem::path& path, const TensorMap& tensors) {
  std::vector<NamedTensor> named;
  for (const auto& [key, tensor] : tensors) named.push_back({key, ViewTensor(tensor)});
  ASSERT_TRUE(WriteSafetensors(path, named).ok());
}

// A part of another model under the names of the file that part usually comes from.
TensorMap PartOf(const AlbefImpl& model, const std::string& prefix) {
  TensorMap tensors;
  for (const auto& [key, tensor] : CopyOf(model)) {
    if (key.starts_with(prefix)) tensors.emplace(key.substr(prefix.size()), tensor);
  }
  return tensors;
}

Albef RandomModel(uint64_t seed, const AlbefOptions& options = SmallOptions()) {
  Albef model(options);
  InitializeRandomly(*model, seed);
  return model;
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(LoadVisualEncoder, TakesADeiTFileResizesItsPositionsAndIgnoresItsHead) {
  const TemporaryDirectory folder;
  AlbefOptions larger = SmallOptions();
  larger.vision.image_res *= 2;
  TensorMap deit = PartOf(*RandomModel(1, larger), "visual_encoder.");
  deit.emplace("head.weight", torch::zeros({10, 16}));
  deit.emplace("head.bias", torch::zeros({10}));
  ASSERT_TRUE(
      WritePth(folder.path() / "deit.pth", PickleValue::Dict({{"model", Dict(deit)}})).ok());

  const Albef model = RandomModel(2);
  const TensorMap before = CopyOf(*model);
  const auto report = LoadVisualEncoder(*Albef(model), folder.path() / "deit.pth");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->ignored, testing::ElementsAre("head.bias", "head.weight"));
  EXPECT_TRUE(report->missing.empty() && report->unexpected.empty()) << report->Summary();
  for (const auto& [key, tensor] : CopyOf(*model)) {
    if (key == "visual_encoder.pos_embed") {
      EXPECT_TRUE(tensor.equal(InterpolatePositions(deit.at("pos_embed"), tensor.size(1))));
    } else if (key.starts_with("visual_encoder.")) {
      EXPECT_TRUE(tensor.equal(deit.at(key.substr(15)))) << key;
    } else {
      EXPECT_TRUE(tensor.equal(before.at(key))) << key;
    }
  }
}

TEST(LoadVisualEncoder, RefusesAShallowerOrNarrowerFileAndNamesWhatIsWrong) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "vit.safetensors";
  TensorMap vit = PartOf(*RandomModel(1), "visual_encoder.");
  vit.erase("blocks.0.norm1.bias");
  WriteTensors(path, vit);
  Albef model = RandomModel(2);
  EXPECT_THAT(MessageOf(LoadVisualEncoder(*model, path).status()),
              testing::AllOf(HasSubstr("vit.safetensors"),
                             HasSubstr("visual_encoder.blocks.0.norm1.bias")));
  vit["blocks.0.norm1.bias"] = torch::zeros({7});
  WriteTensors(path, vit);
  EXPECT_THAT(
      MessageOf(LoadVisualEncoder(*model, path).status()),
      testing::AllOf(HasSubstr("blocks.0.norm1.bias"), HasSubstr("[7]"), HasSubstr("[16]")));
}

// bert-base-uncased as its first release has it: gamma and beta, one decoder name, pooler, NSP.
TEST(LoadTextEncoder, TakesAnOldBertFileAndLeavesCrossAttentionAlone) {
  const TemporaryDirectory folder;
  TensorMap bert;
  for (auto& [key, tensor] : PartOf(*RandomModel(1), "text_encoder.")) {
    if (key.find("crossattention") != std::string::npos || key.ends_with("position_ids") ||
        key.ends_with("decoder.bias")) {
      continue;
    }
    std::string name = key;
    if (const size_t norm = name.find("LayerNorm."); norm != std::string::npos) {
      name =
          name.substr(0, norm) + (name.ends_with("weight") ? "LayerNorm.gamma" : "LayerNorm.beta");
    }
    bert.emplace(name, tensor.clone().add_(0.5));
  }
  bert.emplace("bert.pooler.dense.weight", torch::zeros({16, 16}));
  bert.emplace("cls.seq_relationship.bias", torch::zeros({2}));
  ASSERT_TRUE(WritePth(folder.path() / "pytorch_model.bin", Dict(bert)).ok());

  Albef model = RandomModel(2);
  const TensorMap before = CopyOf(*model);
  const auto report = LoadTextEncoder(*model, folder.path() / "pytorch_model.bin");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->unexpected.empty()) << report->Summary();
  EXPECT_THAT(report->ignored,
              testing::ElementsAre("bert.pooler.dense.weight", "cls.seq_relationship.bias"));
  const TensorMap after = CopyOf(*model);
  for (const std::string& key : report->missing) {
    EXPECT_TRUE(key.find("crossattention") != std::string::npos || key.ends_with("position_ids"))
        << key;
    EXPECT_TRUE(after.at(key).equal(before.at(key))) << key;
  }
  const std::string norm = "bert.encoder.layer.0.output.LayerNorm.";
  EXPECT_TRUE(after.at("text_encoder." + norm + "weight").equal(bert.at(norm + "gamma")));
  EXPECT_TRUE(after.at("text_encoder." + norm + "bias").equal(bert.at(norm + "beta")));
  EXPECT_TRUE(after.at("text_encoder.cls.predictions.decoder.weight")
                  .equal(bert.at("bert.embeddings.word_embeddings.weight")));
}

TEST(LoadTextEncoder, TakesABareBertModelAndRefusesAnotherVocabulary) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "bert.safetensors";
  TensorMap bert = PartOf(*RandomModel(1), "text_encoder.bert.");
  WriteTensors(path, bert);
  Albef model = RandomModel(2);
  const auto report = LoadTextEncoder(*model, path);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(PartOf(*model, "text_encoder.bert.")
                  .at("embeddings.word_embeddings.weight")
                  .equal(bert.at("embeddings.word_embeddings.weight")));

  bert["embeddings.word_embeddings.weight"] = torch::zeros({111, 16});
  WriteTensors(path, bert);
  EXPECT_THAT(MessageOf(LoadTextEncoder(*model, path).status()),
              testing::AllOf(HasSubstr("word_embeddings"), HasSubstr("[111, 16]"),
                             HasSubstr("vocab_size")));
}

TEST(LoadWholeModel, NeedsEverythingAndResizesBothPositionEmbeddings) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "model.safetensors";
  AlbefOptions larger = SmallOptions();
  larger.vision.image_res *= 2;
  TensorMap state = CopyOf(*RandomModel(1, larger));
  state.emplace("exp_avg.temp", torch::zeros({}));
  WriteTensors(path, state);
  Albef model = RandomModel(2);
  const auto report = LoadWholeModel(*model, path);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->ignored, testing::ElementsAre("exp_avg.temp"));
  const TensorMap after = CopyOf(*model);
  for (const auto& [key, tensor] : after) {
    EXPECT_TRUE(key.ends_with("pos_embed") || tensor.equal(state.at(key))) << key;
  }
  EXPECT_TRUE(after.at("visual_encoder_m.pos_embed")
                  .equal(InterpolatePositions(state.at("visual_encoder_m.pos_embed"),
                                              after.at("visual_encoder_m.pos_embed").size(1))));

  state["image_queue"] = torch::zeros({8, 30});
  WriteTensors(path, state);
  EXPECT_THAT(MessageOf(LoadWholeModel(*model, path).status()),
              testing::AllOf(HasSubstr("image_queue"), HasSubstr("queue_size")));
  state.erase("image_queue");
  WriteTensors(path, state);
  EXPECT_THAT(MessageOf(LoadWholeModel(*model, path).status()), HasSubstr("(image_queue)"));
}

// As a run leaves it, in shards whose borders cut tensors.
TEST(LoadWholeModel, TakesTheNewestCheckpointOfARunOrTheOneNamed) {
  const TemporaryDirectory run_dir;
  AlbefOptions options = SmallOptions();
  options.bert.vocab_size = 30'000;  // 1.9 MB of word embeddings
  CheckpointStore::Options store_options;
  store_options.root = run_dir.path() / "checkpoints";
  const auto store = CheckpointStore::Open(std::move(store_options));
  ASSERT_TRUE(store.ok()) << store.status();
  std::map<int64_t, TensorMap> expected;
  for (const int64_t step : {3, 5}) {
    const TrainState state(RandomModel(static_cast<uint64_t>(step), options), {});
    expected[step] = CopyOf(*state.model());
    const std::vector<StateEntry> entries = state.State();
    std::vector<NamedTensor> tensors;
    for (const StateEntry& entry : entries) {
      tensors.push_back({entry.key, ViewTensor(entry.tensor)});
    }
    CheckpointInfo info;
    info.counters.iteration = step;
    const auto written = (*store)->Write(tensors, info, {.num_shards = 7});
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_GT(written->files.size(), 1u);
  }
  for (const auto& [path, step] : {std::pair(run_dir.path(), int64_t{5}),
                                   std::pair((*store)->root() / StepName(3), int64_t{3})}) {
    const Albef model = RandomModel(9, options);
    const auto report = LoadWholeModel(*Albef(model), path);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->missing.empty() && report->unexpected.empty()) << report->Summary();
    for (const auto& [key, tensor] : CopyOf(*model)) {
      EXPECT_TRUE(tensor.equal(expected[step].at(key))) << key;
    }
  }
  const auto none = LoadWholeModel(*RandomModel(9, options), run_dir.path() / "checkpoints/other");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFileAtomic((*store)->root() / StepName(5) / kManifestName, "{}").ok());
  EXPECT_EQ(LoadWholeModel(*RandomModel(9, options), run_dir.path()).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(InitializeModel, CopiesWhatItLoadedIntoTheTeacher) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "vit.safetensors";
  WriteTensors(path, PartOf(*RandomModel(1), "visual_encoder."));
  Albef model(SmallOptions());
  RunConfig::Init init;
  init.visual_encoder = path.string();
  init.text_encoder = std::string(kRandomInit);
  const auto steps = InitializeModel(*model, init, 5);
  ASSERT_TRUE(steps.ok()) << steps.status();
  ASSERT_EQ(steps->size(), 1u);
  EXPECT_EQ(steps->front().what, "visual_encoder");
  const TensorMap student = PartOf(*model, "visual_encoder."), random = CopyOf(*RandomModel(5));
  for (const auto& [key, tensor] : PartOf(*model, "visual_encoder_m.")) {
    EXPECT_TRUE(tensor.equal(student.at(key))) << key;
  }
  EXPECT_TRUE(CopyOf(*model).at("itm_head.weight").equal(random.at("itm_head.weight")));
}

TEST(ReadWeights, SaysWhatIsWrongWithAFile) {
  const TemporaryDirectory folder;
  EXPECT_EQ(ReadWeights(folder.path() / "none.pth").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WritePth(folder.path() / "empty.pth", PickleValue::Dict({{"epoch", 3}})).ok());
  EXPECT_THAT(MessageOf(ReadWeights(folder.path() / "empty.pth").status()),
              HasSubstr("no named tensors"));
  ASSERT_TRUE(WriteFileAtomic(folder.path() / "text.bin", "not a pickle").ok());
  EXPECT_EQ(ReadWeights(folder.path() / "text.bin").status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace albef
