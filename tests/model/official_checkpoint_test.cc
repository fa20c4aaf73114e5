#include "model/official_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "common/file.h"
#include "formats/pth.h"
#include "model/state_dict.h"
#include "model/tensor_io.h"
#include "tests/model/golden.h"

namespace albef {
namespace {

using testing::HasSubstr;

std::filesystem::path CheckpointPath(const std::string& name) {
  return golden::Root() / "pretrain" / name;
}

std::vector<std::string> CheckpointNames() {
  std::vector<std::string> names;
  const nlohmann::json golden = golden::ReadJson("checkpoint");
  for (const auto& item : golden.at("files").items()) names.push_back(item.key());
  return names;
}

std::unique_ptr<TrainState> EmptyState() {
  const nlohmann::json golden = golden::ReadJson("checkpoint");
  TrainStateOptions options;
  options.adamw.weight_decay = golden.at("stored_config").at("optimizer").at("weight_decay");
  return std::make_unique<TrainState>(Albef(golden::ToOptions(golden.at("config"))), options);
}

// The config a run would have had that wrote the fixture.
RunConfig StoredConfig() {
  const nlohmann::json golden = golden::ReadJson("checkpoint"), stored = golden.at("stored_config");
  RunConfig config;
  config.train_file = stored.at("train_file").get<std::vector<std::string>>();
  config.image_res = stored.at("image_res");
  config.vision_width = stored.at("vision_width");
  config.embed_dim = stored.at("embed_dim");
  config.batch_size = stored.at("batch_size");
  config.temp = stored.at("temp");
  config.mlm_probability = stored.at("mlm_probability");
  config.queue_size = stored.at("queue_size");
  config.momentum = stored.at("momentum");
  config.alpha = stored.at("alpha");
  config.optimizer.lr = stored.at("optimizer").at("lr");
  config.optimizer.weight_decay = stored.at("optimizer").at("weight_decay");
  const nlohmann::json& schedular = stored.at("schedular");
  config.schedular.lr = schedular.at("lr");
  config.schedular.epochs = schedular.at("epochs");
  config.schedular.min_lr = schedular.at("min_lr");
  config.schedular.decay_rate = schedular.at("decay_rate");
  config.schedular.warmup_lr = schedular.at("warmup_lr");
  config.schedular.warmup_epochs = schedular.at("warmup_epochs");
  config.schedular.cooldown_epochs = schedular.at("cooldown_epochs");
  return config;
}

// Plain data as JSON; tensors and what is not asked for become null.
nlohmann::json ToJson(const PickleValue& value) {
  switch (value.kind()) {
    case PickleValue::Kind::kBool:
      return *value.AsBool();
    case PickleValue::Kind::kInt:
      return *value.AsInt();
    case PickleValue::Kind::kFloat:
      return *value.AsDouble();
    case PickleValue::Kind::kString:
      return std::string(*value.AsString());
    case PickleValue::Kind::kList:
    case PickleValue::Kind::kTuple: {
      nlohmann::json list = nlohmann::json::array();
      for (const PickleValue& element : value.elements()) list.push_back(ToJson(element));
      return list;
    }
    case PickleValue::Kind::kDict: {
      nlohmann::json dict = nlohmann::json::object();
      for (const auto& [key, item] : value.items()) dict[std::string(key.text())] = ToJson(item);
      return dict;
    }
    default:
      return nullptr;
  }
}

// State of a TrainState under the fixture's names; "model." of both names of tied tensors.
TensorMap ByName(const TrainState& state) {
  TensorMap tensors;
  for (const StateEntry& entry : StateDict(*state.model())) {
    tensors.emplace("model." + entry.key, entry.tensor.detach());
  }
  for (const StateEntry& entry : state.State()) {
    if (entry.key.starts_with("exp_avg")) tensors.emplace(entry.key, entry.tensor);
  }
  return tensors;
}

void ExpectEqual(const TensorMap& actual, const TensorMap& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  for (const auto& [key, tensor] : expected) {
    ASSERT_TRUE(actual.contains(key)) << key;
    EXPECT_EQ(actual.at(key).scalar_type(), tensor.scalar_type()) << key;
    EXPECT_TRUE(actual.at(key).equal(tensor)) << key;
  }
}

TEST(OfficialCheckpointGolden, ImportsEveryTensorExactlyFromBothFormats) {
  const nlohmann::json golden = golden::ReadJson("checkpoint");
  const golden::TensorMap expected = golden::ReadTensors("checkpoint_expected");
  ASSERT_FALSE(CheckpointNames().empty());
  for (const std::string& name : CheckpointNames()) {
    SCOPED_TRACE(name);
    const auto state = EmptyState();
    const auto progress = ImportOfficialCheckpoint(CheckpointPath(name), *state);
    ASSERT_TRUE(progress.ok()) << progress.status();
    ExpectEqual(ByName(*state), expected);
    const int64_t updates = golden.at("optimizer_steps"), epoch = golden.at("epoch");
    EXPECT_EQ(progress->epoch, epoch);
    EXPECT_EQ(state->counters(), (StepCounters{updates, updates, updates}));
    EXPECT_EQ(state->queue().pointer(), expected.at("model.queue_ptr").item<int64_t>());
    state->arena().CheckAliasing();

    ASSERT_TRUE(
        ImportOfficialCheckpoint(CheckpointPath(name), *state, {.steps_per_epoch = 50}).ok());
    EXPECT_EQ(state->counters(), (StepCounters{(epoch + 1) * 50, updates, updates}));
  }
}

TEST(OfficialCheckpointGolden, TheOptimizerOrderIsTheLayouts) {
  const nlohmann::json golden = golden::ReadJson("checkpoint");
  std::vector<std::string> names;
  std::vector<int64_t> num_values(2);
  const auto state = EmptyState();
  for (const LayoutEntry& entry : state->arena().layout().entries()) {
    names.push_back(entry.key);
    num_values[entry.group == ParameterGroup::kDecay ? 1 : 0] += entry.num_values;
  }
  EXPECT_EQ(names, golden.at("index_to_name").get<std::vector<std::string>>());
  EXPECT_EQ(num_values, golden.at("param_group_values").get<std::vector<int64_t>>());
}

TEST(OfficialCheckpointGolden, AnExportHoldsWhatTheOriginalHolds) {
  const TemporaryDirectory folder;
  const nlohmann::json golden = golden::ReadJson("checkpoint");
  const auto state = EmptyState();
  ASSERT_TRUE(ImportOfficialCheckpoint(CheckpointPath(CheckpointNames()[0]), *state).ok());
  const OfficialExportOptions options{.config = StoredConfig(),
                                      .lr = golden.at("param_groups")[0].at("lr"),
                                      .epoch = golden.at("epoch")};
  const std::filesystem::path path = folder.path() / "checkpoint_01.pth";
  const absl::Status written = ExportOfficialCheckpoint(path, *state, options);
  ASSERT_TRUE(written.ok()) << written;

  const auto again = EmptyState();
  const auto progress = ImportOfficialCheckpoint(path, *again);
  ASSERT_TRUE(progress.ok()) << progress.status();
  EXPECT_TRUE(progress->unknown_classes.empty());
  EXPECT_EQ(progress->epoch, golden.at("epoch").get<int64_t>());
  EXPECT_EQ(again->counters(), state->counters());
  ExpectEqual(ByName(*again), golden::ReadTensors("checkpoint_expected"));

  const auto file = PthFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> keys;
  const PickleValue model = *file->root().Find("model");
  EXPECT_TRUE(model.is_ordered_dict());
  for (const auto& [key, value] : model.items()) keys.emplace_back(key.text());
  EXPECT_EQ(keys, golden.at("model_keys").get<std::vector<std::string>>());
  for (const std::string encoder : {"text_encoder.", "text_encoder_m."}) {
    const auto storage = [&](const std::string& key) {
      return (*model.Find(encoder + key)->AsTensor())->storage_key;
    };
    EXPECT_EQ(storage("cls.predictions.decoder.weight"),
              storage("bert.embeddings.word_embeddings.weight"));
    EXPECT_EQ(storage("cls.predictions.decoder.bias"), storage("cls.predictions.bias"));
  }
  EXPECT_EQ(ToJson(*file->root().Find("lr_scheduler")), golden.at("lr_scheduler"));
  nlohmann::json config = golden.at("stored_config");
  config.erase("bert_config");  // a path of theirs; ours has it inline
  EXPECT_EQ(ToJson(*file->root().Find("config")), config);
  const nlohmann::json groups = ToJson(*file->root().Find("optimizer")->Find("param_groups"));
  ASSERT_EQ(groups.size(), golden.at("param_groups").size());
  for (size_t i = 0; i < groups.size(); ++i) {
    nlohmann::json expected = golden.at("param_groups")[i];
    expected.erase("length");  // a note of the fixture
    EXPECT_EQ(groups[i], expected);
  }
}

TEST(OfficialCheckpoint, AStateBeforeTheFirstStepComesBack) {
  const TemporaryDirectory folder;
  const auto state = EmptyState(), again = EmptyState();
  const std::filesystem::path path = folder.path() / "start.pth";
  ASSERT_TRUE(
      ExportOfficialCheckpoint(path, *state, {.config = StoredConfig(), .lr = 1e-5, .epoch = -1})
          .ok());
  const auto progress = ImportOfficialCheckpoint(path, *again);
  ASSERT_TRUE(progress.ok()) << progress.status();
  EXPECT_EQ(progress->epoch, -1);
  EXPECT_EQ(again->counters(), StepCounters{});
}

TEST(OfficialCheckpoint, RefusesAnotherModelAndChangesNothing) {
  AlbefOptions options = golden::ToOptions(golden::ReadJson("checkpoint").at("config"));
  options.queue_size += 1;
  TrainState state(Albef(options), {});
  const torch::Tensor before = state.arena().parameters().clone();
  const absl::Status status =
      ImportOfficialCheckpoint(CheckpointPath(CheckpointNames()[0]), state).status();
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr(CheckpointNames()[0]), HasSubstr("image_queue"),
                             HasSubstr("queue_size")));
  EXPECT_TRUE(state.arena().parameters().equal(before));
  EXPECT_TRUE(state.adamw().exp_avg().eq(0).all().item<bool>());
}

TEST(OfficialCheckpoint, NamesThePartThatIsMissing) {
  const TemporaryDirectory folder;
  const auto state = EmptyState();
  const std::filesystem::path path = folder.path() / "weights.pth";
  ASSERT_TRUE(WritePth(path, PickleValue::Dict({{"model", PickleValue::OrderedDict({})}})).ok());
  EXPECT_THAT(std::string(ImportOfficialCheckpoint(path, *state).status().message()),
              testing::AllOf(HasSubstr("weights.pth: optimizer"), HasSubstr("authors")));
}

}  // namespace
}  // namespace albef
