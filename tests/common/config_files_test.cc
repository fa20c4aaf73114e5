// Configurations and the files they name.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/config.h"
#include "common/file.h"
#include "tests/common/config_texts.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(LoadRunConfig, LooksForBertConfigBesideTheFileAboveItAndInTheWorkingDirectory) {
  TemporaryDirectory directory;
  const fs::path configs = directory.path() / "configs";
  ASSERT_TRUE(CreateDirectories(configs).ok());
  const auto hidden_size = [&](std::string_view bert_path) {
    EXPECT_TRUE(WriteFileAtomic(configs / "run.yaml",
                                fmt::format("train_file: a\nbert_config: {}\n", bert_path))
                    .ok());
    const auto config = LoadRunConfig(configs / "run.yaml", {.check_files = false});
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->bert_config.hidden_size : 0;
  };
  // The authors' layout: the path names the folder that the file lies in.
  ASSERT_TRUE(WriteFileAtomic(configs / "bert.json", "{\"hidden_size\": 24}").ok());
  EXPECT_EQ(hidden_size("configs/bert.json"), 24);
  EXPECT_EQ(hidden_size("bert.json"), 24);
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "above.yaml", "hidden_size: 36\n").ok());
  EXPECT_EQ(hidden_size("above.yaml"), 36);
  EXPECT_EQ(hidden_size("configs/config_bert.json"), 768);  // from the source root
  EXPECT_EQ(hidden_size((configs / "bert.json").string()), 24);
}

TEST(LoadRunConfig, NamesTheBertConfigFileInItsErrors) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "run.yaml";
  const fs::path bert = directory.path() / "bert.json";
  ASSERT_TRUE(WriteFileAtomic(path, "train_file: a\nbert_config: bert.json\n").ok());
  const auto error = [&] {
    return std::string(LoadRunConfig(path, {.check_files = false}).status().message());
  };
  EXPECT_THAT(error(), AllOf(StartsWith(fmt::format("{}:2: bert_config: bert.json: no such file; "
                                                    "looked for {}",
                                                    path.string(), bert.string()))));
  ASSERT_TRUE(WriteFileAtomic(bert, "{\"hidden_size\": 24,\n \"hiden_act\": \"gelu\"}").ok());
  EXPECT_THAT(error(), StartsWith(fmt::format("{}:2: bert_config.hiden_act: unknown key; did you "
                                              "mean bert_config.hidden_act?",
                                              bert.string())));
  ASSERT_TRUE(WriteFileAtomic(bert, "[1]").ok());
  EXPECT_THAT(error(), StartsWith(fmt::format("{}:1 (bert_config of {}:2): expected a mapping",
                                              bert.string(), path.string())));
}

TEST(LoadRunConfig, RefusesFoldersDevicesAndHugeFiles) {
  TemporaryDirectory directory;
  const auto error = [](const fs::path& path) { return LoadRunConfig(path).status(); };
  EXPECT_THAT(std::string(error(directory.path()).message()), HasSubstr("is a folder"));
  EXPECT_THAT(std::string(error("/dev/zero").message()), HasSubstr("is a device"));
  EXPECT_EQ(error(directory.path() / "none.yaml").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "huge", std::string(2 << 20, 'x')).ok());
  EXPECT_THAT(std::string(error(directory.path() / "huge").message()),
              HasSubstr("more than 1048576 bytes"));
}

TEST(LoadRunConfig, NamesMissingFilesWithTheirLine) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "run.yaml";
  const fs::path root = directory.path() / "data";
  ASSERT_TRUE(CreateDirectories(root).ok());
  const std::string yaml = fmt::format(
      "train_file:\n  - a.json\n  - b.json\nbert_config: {{}}\ndata:\n  root: {}\n"
      "tokenizer: {{vocab: vocab.txt}}\ninit: {{visual_encoder: /none.pth, text_encoder: "
      "random}}\n",
      root.string());
  ASSERT_TRUE(WriteFileAtomic(path, yaml).ok());
  const auto expect_missing = [&](std::string_view error) {
    const absl::Status status = LoadRunConfig(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(std::string(status.message()), fmt::format("{}:{}", path.string(), error));
  };
  expect_missing(
      fmt::format("2: train_file[0]: {0}/a.json: no such file; relative paths start at "
                  "data.root = {0}",
                  root.string()));
  ASSERT_TRUE(WriteFileAtomic(root / "a.json", "[]").ok());
  expect_missing(
      fmt::format("3: train_file[1]: {0}/b.json: no such file; relative paths start at "
                  "data.root = {0}",
                  root.string()));
  ASSERT_TRUE(WriteFileAtomic(root / "b.json", "[]").ok());
  expect_missing(
      fmt::format("7: tokenizer.vocab: {0}/vocab.txt: no such file; relative paths "
                  "start at data.root = {0}",
                  root.string()));
  ASSERT_TRUE(WriteFileAtomic(root / "vocab.txt", "").ok());
  expect_missing(
      "8: init.visual_encoder: /none.pth: no such file; relative paths start at the working "
      "directory");
  EXPECT_TRUE(LoadRunConfig(path, {.overrides = {"init.visual_encoder=random"}}).ok());
}

TEST(LoadRunConfig, ExpandsThePatternsOfTrainFile) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "run.yaml";
  const std::string yaml = fmt::format(
      "train_file: [\"{{a,b}}.json\", 'shards/*.tar']\nbert_config: {{}}\ndata: {{root: {}}}\n",
      directory.path().string());
  ASSERT_TRUE(WriteFileAtomic(path, yaml).ok());
  ASSERT_TRUE(CreateDirectories(directory.path() / "shards").ok());
  const auto expect = [&](std::string_view error, std::vector<std::string> overrides = {}) {
    const absl::Status status = LoadRunConfig(path, {.overrides = std::move(overrides)}).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(error));
  };
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "a.json", "[]").ok());
  expect("run.yaml:1: train_file[0]: " + (directory.path() / "b.json").string() +
         ": no such file; relative paths start at");
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "b.json", "[]").ok());
  expect("run.yaml:1: train_file[1]: " + (directory.path() / "shards/*.tar").string() +
         ": matches no file; relative paths start at");
  for (const char* name : {"shards/1.tar", "shards/0.tar"}) {
    ASSERT_TRUE(WriteFileAtomic(directory.path() / name, "").ok());
  }
  const auto config = LoadRunConfig(path);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto files = TrainFiles(*config);
  ASSERT_TRUE(files.ok()) << files.status();
  std::vector<std::string> names;
  for (const fs::path& file : *files) names.push_back(file.filename());
  EXPECT_THAT(names, ::testing::ElementsAre("a.json", "b.json", "0.tar", "1.tar"));
  expect("train_file[0]: '{' without its '}'", {"train_file='{a'"});
  expect("eval.file: an evaluation reads a JSON file", {"eval.file=shards/0.tar"});
}

TEST(CheckNewRun, AsksForWeightsAndVocabularyWithTheAuthorsFiles) {
  EXPECT_THAT(std::string(CheckNewRun(MustParse(kAuthors)).message()),
              AllOf(HasSubstr("deit_base_patch16_224"), HasSubstr("bert-base-uncased")));
  EXPECT_THAT(std::string(CheckNewRun(MustParse(kAuthors, {"init.checkpoint=x.pth"})).message()),
              StartsWith("tokenizer.vocab: missing"));
  EXPECT_TRUE(
      CheckNewRun(MustParse(kAuthors, {"init.checkpoint=x.pth", "tokenizer.vocab=v.txt"})).ok());
}

}  // namespace
}  // namespace albef
