// The readers and the writer on the golden fixtures.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/pth.h"
#include "formats/safetensors.h"
#include "tests/formats/goldens.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

nlohmann::json CheckpointJson() {
  return nlohmann::json::parse(std::ifstream(GoldenRoot() / "pretrain/checkpoint.json"));
}

void ExpectEqual(const TensorView& actual, const TensorView& expected) {
  EXPECT_EQ(actual.dtype, expected.dtype);
  EXPECT_EQ(actual.shape, expected.shape);
  EXPECT_TRUE(std::ranges::equal(actual.bytes, expected.bytes));
}

// Every tensor of a checkpoint as the expected file names them.
void ExpectCheckpoint(const PickleValue& root) {
  const auto expected =
      SafetensorsFile::Open(GoldenRoot() / "pretrain/checkpoint_expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  const nlohmann::json facts = CheckpointJson();

  std::map<std::string, const PickleTensor*> actual;
  const auto model = root.Find("model");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->is_ordered_dict());
  EXPECT_TRUE(model->state().Contains("_metadata"));
  std::vector<std::string> keys;
  for (const auto& [key, value] : model->items()) {
    keys.emplace_back(key.text());
    ASSERT_TRUE(value.AsTensor().ok()) << key.text();
    actual[fmt::format("model.{}", key.text())] = *value.AsTensor();
  }
  EXPECT_EQ(keys, facts["model_keys"].get<std::vector<std::string>>());

  const auto state = root.Find("optimizer")->Find("state");
  ASSERT_TRUE(state.ok()) << state.status();
  const auto names = facts["index_to_name"].get<std::vector<std::string>>();
  ASSERT_EQ(state->items().size(), names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    const auto entry = state->Find(static_cast<int64_t>(i));
    ASSERT_TRUE(entry.ok()) << entry.status();
    for (const std::string moment : {"exp_avg", "exp_avg_sq"}) {
      actual[moment + "." + names[i]] = *entry->Find(moment)->AsTensor();
    }
    const PickleValue step = *entry->Find("step");
    if (step.kind() == PickleValue::Kind::kTensor) {
      const TensorView& view = (*step.AsTensor())->view;
      EXPECT_THAT(view.shape, IsEmpty());
      ASSERT_EQ(view.dtype, DType::kF32);
      EXPECT_EQ(*reinterpret_cast<const float*>(view.bytes.data()), facts["optimizer_steps"]);
    } else {
      EXPECT_EQ(*step.AsInt(), facts["optimizer_steps"]);
    }
  }

  ASSERT_EQ(actual.size(), expected->tensors().size());
  for (const auto& [name, tensor] : expected->tensors()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(actual.contains(name));
    ExpectEqual(actual[name]->view, tensor);
  }
}

// Scalars, strings, lists and dicts against JSON.
void ExpectJson(const PickleValue& value, const nlohmann::json& json) {
  using Kind = PickleValue::Kind;
  SCOPED_TRACE(json.dump());
  switch (value.kind()) {
    case Kind::kNone:
      EXPECT_TRUE(json.is_null());
      break;
    case Kind::kBool:
      EXPECT_EQ(json, *value.AsBool());
      break;
    case Kind::kInt:
      EXPECT_EQ(json, *value.AsInt());
      break;
    case Kind::kFloat:
      EXPECT_EQ(json, *value.AsDouble());
      break;
    case Kind::kString:
      EXPECT_EQ(json, std::string(value.text()));
      break;
    case Kind::kList:
    case Kind::kTuple:
      ASSERT_TRUE(json.is_array());
      ASSERT_EQ(value.elements().size(), json.size());
      for (size_t i = 0; i < json.size(); ++i) ExpectJson(value.elements()[i], json[i]);
      break;
    case Kind::kDict:
      ASSERT_TRUE(json.is_object());
      ASSERT_EQ(value.items().size(), json.size());
      for (const auto& [key, item] : value.items()) {
        ASSERT_TRUE(json.contains(std::string(key.text()))) << key.text();
        ExpectJson(item, json[std::string(key.text())]);
      }
      break;
    default:
      ADD_FAILURE() << "unexpected " << KindName(value.kind());
  }
}

// The names that share the memory of `name`, itself among them.
std::set<std::string> TiedTo(const PickleValue& model, std::string_view name) {
  const PickleTensor& tensor = **model.Find(name)->AsTensor();
  std::set<std::string> tied;
  for (const auto& [key, value] : model.items()) {
    const PickleTensor& other = **value.AsTensor();
    if (other.storage_key == tensor.storage_key &&
        other.view.bytes.data() == tensor.view.bytes.data()) {
      tied.emplace(key.text());
    }
  }
  return tied;
}

void ExpectTies(const PickleValue& model) {
  for (const std::string encoder : {"text_encoder", "text_encoder_m"}) {
    EXPECT_THAT(
        TiedTo(model, encoder + ".cls.predictions.bias"),
        ElementsAre(encoder + ".cls.predictions.bias", encoder + ".cls.predictions.decoder.bias"));
    EXPECT_THAT(TiedTo(model, encoder + ".bert.embeddings.word_embeddings.weight"),
                ElementsAre(encoder + ".bert.embeddings.word_embeddings.weight",
                            encoder + ".cls.predictions.decoder.weight"));
  }
}

TEST(Goldens, EverySafetensorsFileLoads) {
  int num_files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(GoldenRoot())) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::Open(entry.path());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_FALSE(file->tensors().empty()) << entry.path();
    ++num_files;
  }
  EXPECT_GT(num_files, 0) << "no .safetensors below " << GoldenRoot();
}

class CheckpointGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(CheckpointGolden, HoldsExactlyTheExpectedValues) {
  const auto file = PthFile::Open(GoldenRoot() / "pretrain" / GetParam());
  ASSERT_TRUE(file.ok()) << file.status();
  const nlohmann::json facts = CheckpointJson();
  EXPECT_THAT(file->unknown_classes(), IsEmpty());
  ExpectCheckpoint(file->root());
  ExpectTies(*file->root().Find("model"));
  ExpectJson(*file->root().Find("epoch"), facts["epoch"]);
  ExpectJson(*file->root().Find("config"), facts["stored_config"]);
  ExpectJson(*file->root().Find("lr_scheduler"), facts["lr_scheduler"]);
}

TEST_P(CheckpointGolden, IsTheSameAfterWritingAndReading) {
  const auto original = PthFile::Open(GoldenRoot() / "pretrain" / GetParam());
  ASSERT_TRUE(original.ok()) << original.status();
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "copy.pth";
  const absl::Status written = WritePth(path, original->root());
  ASSERT_TRUE(written.ok()) << written;
  const auto copy = PthFile::Open(path);
  ASSERT_TRUE(copy.ok()) << copy.status();
  ExpectCheckpoint(copy->root());
  ExpectTies(*copy->root().Find("model"));
  ExpectJson(*copy->root().Find("config"), CheckpointJson()["stored_config"]);
}

INSTANTIATE_TEST_SUITE_P(BothFormats, CheckpointGolden,
                         ::testing::Values("checkpoint_01.pth", "checkpoint_old.pth"),
                         [](const auto& instance) {
                           return std::string(instance.param).find("old") == std::string::npos
                                      ? "Zip"
                                      : "Old";
                         });

}  // namespace
}  // namespace albef
