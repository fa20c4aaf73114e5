#include "common/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>

#include "common/file.h"
#include "common/random.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

// Two required keys; tests add lines behind these.
constexpr std::string_view kMinimal =
    "train_file: train.json\n"
    "bert_config: {}\n";

absl::StatusOr<RunConfig> Parse(std::string_view yaml, std::vector<std::string> overrides = {}) {
  return ParseRunConfig(yaml, "run.yaml",
                        {.overrides = std::move(overrides), .check_files = false});
}

RunConfig MustParse(std::string_view yaml, std::vector<std::string> overrides = {}) {
  const auto config = Parse(yaml, std::move(overrides));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(RunConfig{});
}

std::string ErrorOf(std::string_view yaml, std::vector<std::string> overrides = {}) {
  const auto config = Parse(yaml, std::move(overrides));
  return config.ok() ? "no error" : std::string(config.status().message());
}

// The authors' pretraining file, key for key.
constexpr std::string_view kAuthors = R"(train_file: ['json_pretrain/coco.json',
             'json_pretrain/vg.json',
             'json_pretrain/sbu.json',
             'json_pretrain/cc3m.json'
             ]
# a comment
bert_config: 'configs/config_bert.json'

image_res: 256
vision_width: 768
embed_dim: 256
batch_size: 64
temp: 0.07
mlm_probability: 0.15
queue_size: 65536
momentum: 0.995
alpha: 0.4

optimizer: {opt: adamW, lr: 1e-4, weight_decay: 0.02}
schedular: {sched: cosine, lr: 1e-4, epochs: 30, min_lr: 1e-5, decay_rate: 1, warmup_lr: 1e-5, warmup_epochs: 20, cooldown_epochs: 0}
)";

TEST(RunConfig, ReadsTheAuthorsFileAsItIs) {
  const RunConfig config = MustParse(kAuthors);
  EXPECT_THAT(config.train_file, ElementsAre("json_pretrain/coco.json", "json_pretrain/vg.json",
                                             "json_pretrain/sbu.json", "json_pretrain/cc3m.json"));
  EXPECT_EQ(config.image_res, 256);
  EXPECT_EQ(config.vision_width, 768);
  EXPECT_EQ(config.embed_dim, 256);
  EXPECT_EQ(config.batch_size, 64);
  EXPECT_EQ(config.temp, 0.07);
  EXPECT_EQ(config.mlm_probability, 0.15);
  EXPECT_EQ(config.queue_size, 65536);
  EXPECT_EQ(config.momentum, 0.995);
  EXPECT_EQ(config.alpha, 0.4);
  EXPECT_EQ(config.optimizer.opt, "adamW");
  EXPECT_EQ(config.optimizer.lr, 1e-4);
  EXPECT_EQ(config.optimizer.weight_decay, 0.02);
  EXPECT_EQ(config.schedular.epochs, 30);
  EXPECT_EQ(config.schedular.min_lr, 1e-5);
  EXPECT_EQ(config.schedular.warmup_lr, 1e-5);
  EXPECT_EQ(config.schedular.warmup_epochs, 20);
  EXPECT_EQ(config.schedular.step_size, 100);
  EXPECT_EQ(config.bert_config.vocab_size, 30522);
  EXPECT_EQ(config.bert_config.fusion_layer, 6);
  EXPECT_EQ(config.bert_config.encoder_width, 768);
  EXPECT_EQ(config.bert_config.layer_norm_eps, 1e-12);
  EXPECT_EQ(config.bert_config.hidden_dropout_prob, 0.1);
}

TEST(RunConfig, ReadsEveryFileInConfigs) {
  int num_files = 0;
  for (const auto& entry : fs::directory_iterator("configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const auto config = LoadRunConfig(entry.path(), {.check_files = false});
    EXPECT_TRUE(config.ok()) << config.status();
    ++num_files;
  }
  EXPECT_GE(num_files, 3);
  const RunConfig ours = *LoadRunConfig("configs/Pretrain.yaml", {.check_files = false});
  RunConfig authors = MustParse(kAuthors);
  authors.virtual_ranks = 8;
  EXPECT_EQ(ours, authors);
}

TEST(RunConfig, AcceptsTheFormsOfNumbersTextsAndLists) {
  const RunConfig config = MustParse(std::string(kMinimal) + R"(temp: .07
alpha: 1
momentum: +9.95E-1
queue_size: +128
seed: 18446744073709551615
teacher_dropout: false
deterministic: true
max_steps: null
checkpoint: {every_steps: ~, every_epochs: 2}
data: {root: "/data/a b", augment_compat: official}
precision: 'tf32'
eval:
)");
  EXPECT_EQ(config.temp, 0.07);
  EXPECT_EQ(config.alpha, 1.0);
  EXPECT_EQ(config.momentum, 0.995);
  EXPECT_EQ(config.queue_size, 128);
  EXPECT_EQ(config.seed, 18446744073709551615u);
  EXPECT_FALSE(config.teacher_dropout);
  EXPECT_EQ(config.deterministic, true);
  EXPECT_EQ(config.max_steps, std::nullopt);
  EXPECT_EQ(config.checkpoint.every_steps, std::nullopt);
  EXPECT_EQ(config.checkpoint.every_epochs, 2);
  EXPECT_EQ(config.data.root, "/data/a b");
  EXPECT_EQ(config.data.augment_compat, RunConfig::AugmentCompat::kOfficial);
  EXPECT_EQ(config.precision, RunConfig::Precision::kTf32);
  EXPECT_EQ(config.eval, RunConfig::Eval());
  EXPECT_EQ(config.bert_config.vocab_size, std::nullopt);
  EXPECT_THAT(config.train_file, ElementsAre("train.json"));
}

TEST(RunConfig, TakesTheSizeOfTheVocabularyWhereItSaysAuto) {
  EXPECT_EQ(MustParse("train_file: a\nbert_config: {vocab_size: auto}").bert_config.vocab_size,
            std::nullopt);
}

struct BadLine {
  std::string_view line;   // the third of a file
  std::string_view error;  // behind "run.yaml:3: "
};

TEST(RunConfig, NamesFileLineKeyAndWhatIsAllowed) {
  constexpr std::array kCases = {
      // Unknown keys.
      BadLine{"bacth_size: 64", "bacth_size: unknown key; did you mean batch_size? allowed: "},
      BadLine{"scheduler: {lr: 1}", "scheduler: unknown key; did you mean schedular? allowed: "},
      BadLine{"lr: 1e-4", "lr: unknown key; did you mean optimizer.lr? allowed: "},
      BadLine{"optimizer: {learning_rate: 1}",
              "optimizer.learning_rate: unknown key; allowed in optimizer: opt, lr, weight_decay"},
      BadLine{"optimizer.lr: 1", "optimizer.lr: unknown key"},
      BadLine{"elastic: {hang_limit_s: 10}",
              "elastic: unknown key; allowed: train_file, bert_conf"},
      // Types.
      BadLine{"image_res: big",
              "image_res: expected a whole number (at least 1, at most 16384), "
              "got \"big\""},
      BadLine{"image_res: 256.0", "image_res: expected a whole number"},
      BadLine{"image_res: '256'",
              "image_res: expected a whole number (at least 1, at most 16384), "
              "got the quoted text \"256\""},
      BadLine{"image_res: 0x100", "image_res: expected a whole number"},
      BadLine{"image_res: [256]",
              "image_res: expected a whole number (at least 1, at most 16384), "
              "got a list"},
      BadLine{"image_res:",
              "image_res: expected a whole number (at least 1, at most 16384), got "
              "nothing"},
      BadLine{"queue_size: 99999999999999999999", "queue_size: expected a whole number"},
      BadLine{"queue_size: 2000000000",
              "queue_size: expected a whole number (at least 1, at most 1073741824), got "
              "\"2000000000\""},
      BadLine{"seed: -1", "seed: expected a whole number, got \"-1\""},
      BadLine{"seed: 18446744073709551616", "seed: expected a whole number"},
      BadLine{"alpha: .nan", "alpha: expected a number (at least 0, at most 1), got \".nan\""},
      BadLine{"alpha: nan", "alpha: expected a number"},
      BadLine{"optimizer: {lr: inf}", "optimizer.lr: expected a number (at least 0), got \"inf\""},
      BadLine{"optimizer: {lr: 1e999}", "optimizer.lr: expected a number"},
      BadLine{"optimizer: {lr: 1e-4x}", "optimizer.lr: expected a number"},
      BadLine{"optimizer: {lr: +-1}", "optimizer.lr: expected a number"},
      BadLine{"optimizer: 1e-4",
              "optimizer: expected a mapping with the keys opt, lr, "
              "weight_decay, got \"1e-4\""},
      BadLine{"optimizer: [lr]", "optimizer: expected a mapping"},
      BadLine{"teacher_dropout: yes", "teacher_dropout: expected true or false, got \"yes\""},
      BadLine{"data: {root: {a: b}}", "data.root: expected a text, got a mapping"},
      BadLine{"data: {root: ''}", "data.root: expected a text, got an empty one"},
      BadLine{"data: {root: \"a\\0b\"}", "data.root: a text may not contain the byte 0"},
      // Values.
      BadLine{"batch_size: 1",
              "batch_size: expected a whole number (at least 2), got \"1\"; ITM "
              "takes its negatives from the batch"},
      BadLine{"alpha: 1.5", "alpha: expected a number (at least 0, at most 1), got \"1.5\""},
      BadLine{"momentum: -0.1", "momentum: expected a number (at least 0, at most 1)"},
      BadLine{"mlm_probability: 0", "mlm_probability: expected a number (above 0, at most 1)"},
      BadLine{"temp: 1",
              "temp: expected a number (at least 0.001, at most 0.5), got \"1\"; every "
              "step clamps"},
      BadLine{"checkpoint: {keep: 1}",
              "checkpoint.keep: expected a whole number (at least 2), got "
              "\"1\"; the newest"},
      BadLine{"checkpoint: {every_steps: 0}", "checkpoint.every_steps: expected a whole number"},
      BadLine{"optimizer: {opt: sgd}",
              "optimizer.opt: \"sgd\" is not available in this version; allowed: adamW"},
      BadLine{"precision: bf16",
              "precision: \"bf16\" is not available in this version; allowed: fp32, tf32"},
      BadLine{"data: {augment_compat: both}",
              "data.augment_compat: \"both\" is not available in this version; allowed: corrected, "
              "official"},
      // Combinations.
      BadLine{"image_res: 250",
              "image_res: image_res = 250 is not a multiple of vision.patch_size "
              "= 16"},
      BadLine{"vision: {patch_size: 15}",
              "vision.patch_size: image_res = 256 is not a multiple of "
              "vision.patch_size = 15"},
      BadLine{"vision: {heads: 7}",
              "vision.heads: vision_width = 768 is not a multiple of "
              "vision.heads = 7"},
      BadLine{"vision_width: 384",
              "vision_width: encoder_width = 768 must equal vision_width = "
              "384"},
      BadLine{"data: {max_text_length: 513}",
              "data.max_text_length: max_text_length = 513 is more "
              "than max_position_embeddings = 512"},
      BadLine{"init: {visual_encoder: random}",
              "init.visual_encoder: visual_encoder and "
              "text_encoder belong together"},
      BadLine{"init: {checkpoint: a, visual_encoder: random, text_encoder: random}",
              "init.checkpoint: a checkpoint holds the whole model"},
      // YAML.
      BadLine{"train_file: again", "train_file: key given twice; first on line 1"},
      BadLine{"optimizer: {lr: 1, lr: 2}", "lr: key given twice; first on line 3"},
      BadLine{"alpha: &a 1", "anchors (&a) are not supported"},
      BadLine{"alpha: *a", "not valid YAML: "},
      BadLine{"alpha: !!float 1", "tags (tag:yaml.org,2002:float) are not supported"},
      BadLine{"? [a]\n: b", "a key must be a text, not a list"},
      BadLine{"alpha: [1", "not valid YAML: "},
      BadLine{"---\nalpha: 1", "more than one document"},
      BadLine{
          "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
          "kkkkkkkkkkkkkkkkkkkk: 1",
          "a key has 108 bytes; at most 100"},
      BadLine{"alpha: \x01", "not a text file: it contains the byte 0x01"},
  };
  for (const BadLine& bad : kCases) {
    const std::string error = ErrorOf(fmt::format("{}{}\nembed_dim: 256\n", kMinimal, bad.line));
    // A parser may notice what is missing only on the line behind.
    const bool is_late = bad.line == "alpha: [1" || bad.line.starts_with("---");
    EXPECT_THAT(error, StartsWith(fmt::format("run.yaml:{}: {}", is_late ? 4 : 3, bad.error)))
        << bad.line;
  }
}

TEST(RunConfig, NamesTheLineOfBertConfigsKeys) {
  constexpr std::array kCases = {
      BadLine{"hidden_act: relu",
              "hidden_act: \"relu\" is not available in this version; allowed: "
              "gelu"},
      BadLine{"num_attention_heads: 7",
              "num_attention_heads: bert_config.hidden_size = 768 is not "
              "a multiple of bert_config.num_attention_heads = 7"},
      BadLine{"fusion_layer: 12",
              "fusion_layer: fusion_layer = 12 must be below num_hidden_layers "
              "= 12"},
      BadLine{"num_hidden_layers: 6", "num_hidden_layers: fusion_layer = 6 must be below"},
      BadLine{"encoder_width: 192",
              "encoder_width: encoder_width = 192 must equal vision_width = "
              "768"},
      BadLine{"hidden_dropout_prob: 1",
              "hidden_dropout_prob: expected a number (at least 0, below "
              "1), got \"1\""},
      BadLine{"vocab_size: many", "vocab_size: expected a whole number"},
      BadLine{"hiden_size: 1", "hiden_size: unknown key; did you mean bert_config.hidden_size?"},
  };
  for (const BadLine& bad : kCases) {
    EXPECT_THAT(ErrorOf(fmt::format("train_file: a\nbert_config:\n  {}\n", bad.line)),
                StartsWith(fmt::format("run.yaml:3: bert_config.{}", bad.error)))
        << bad.line;
  }
}

TEST(RunConfig, NamesWhatIsMissing) {
  EXPECT_EQ(ErrorOf("bert_config: {}\n"), "run.yaml: train_file: missing; it is required");
  EXPECT_THAT(ErrorOf("train_file: a\n"),
              StartsWith("run.yaml: bert_config: missing; it is requi"));
  EXPECT_THAT(ErrorOf("# nothing\n"), StartsWith("run.yaml: bert_config: missing"));
  EXPECT_THAT(ErrorOf(""), StartsWith("run.yaml: bert_config: missing"));
  EXPECT_EQ(ErrorOf("train_file: []\nbert_config: {}\n"),
            "run.yaml:1: train_file: expected at least one entry, got an empty list");
  EXPECT_EQ(ErrorOf("train_file:\n  - a\n  - [b]\nbert_config: {}\n"),
            "run.yaml:1: train_file: entry 1 (run.yaml:3): expected a text, got a list");
  EXPECT_THAT(ErrorOf("- a\n- b\n"), StartsWith("run.yaml:1: expected a mapping with the keys "));
}

TEST(RunConfig, RefusesWhatIsNoText) {
  EXPECT_EQ(ErrorOf("train_file: \xff\xfe\n"), "run.yaml: not a text file in UTF-8");
  EXPECT_EQ(ErrorOf(std::string("a: b\nc: \0d\n", 11)),
            "run.yaml:2: not a text file: it contains the byte 0x00");
  EXPECT_THAT(ErrorOf(std::string((1 << 20) + 1, ' ')), HasSubstr("too many for a configuration"));
}

TEST(RunConfig, RefusesDeepNestingAndExpansion) {
  EXPECT_THAT(ErrorOf("a: " + std::string(33, '[') + std::string(33, ']')),
              StartsWith("run.yaml:1: nested more than 32 levels deep"));
  EXPECT_THAT(ErrorOf("a: " + std::string(100000, '[')), HasSubstr("nested more than 32 levels"));
  EXPECT_THAT(ErrorOf("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
              StartsWith("run.yaml:1: anchors (&a) are not supported"));
}

TEST(RunConfig, NeverCrashesOnDamagedText) {
  const std::string original = *ReadFile("configs/quickstart.yaml");
  RandomStream random(1, RandomPurpose::kSynthetic, 0);
  constexpr std::string_view kSpecial = "{}[]:,-#&*!|>'\"%@`?\n\t \\\xc3\xff~";
  for (int trial = 0; trial < 2000; ++trial) {
    std::string text = original;
    for (uint64_t edits = 1 + random.Below(8); edits > 0; --edits) {
      const size_t place = random.Below(text.size());
      switch (random.Below(3)) {
        case 0:
          text[place] = kSpecial[random.Below(kSpecial.size())];
          break;
        case 1:
          text.insert(place, 1 + random.Below(3), kSpecial[random.Below(kSpecial.size())]);
          break;
        default:
          text.erase(place, 1 + random.Below(20));
      }
    }
    if (const auto config = Parse(text); config.ok()) {
      EXPECT_EQ(MustParse(ResolvedYaml(*config)), *config);
    } else {
      EXPECT_THAT(std::string(config.status().message()), StartsWith("run.yaml"));
    }
  }
}

// ---- Overrides ----------------------------------------------------------------------------------

TEST(RunConfigOverrides, ReplaceValuesInOrder) {
  const RunConfig config =
      MustParse(kAuthors, {"optimizer.lr=3e-4", "train_file=[a.json, b.json]", "seed=7", "seed=8",
                           "data.root=/x=y", "init={visual_encoder: random, text_encoder: t.bin}",
                           "bert_config.fusion_layer=8", "schedular.epochs=2"});
  EXPECT_EQ(config.optimizer.lr, 3e-4);
  EXPECT_EQ(config.optimizer.weight_decay, 0.02);
  EXPECT_THAT(config.train_file, ElementsAre("a.json", "b.json"));
  EXPECT_EQ(config.seed, 8u);
  EXPECT_EQ(config.data.root, "/x=y");
  EXPECT_EQ(config.init.text_encoder, "t.bin");
  EXPECT_EQ(config.bert_config.fusion_layer, 8);
  EXPECT_EQ(config.bert_config.vocab_size, 30522);
  EXPECT_EQ(config.schedular.epochs, 2);
}

TEST(RunConfigOverrides, UnsetOptionalKeys) {
  const std::string yaml = std::string(kMinimal) + "max_steps: 5\neval: {file: test.json}\n";
  const RunConfig config = MustParse(yaml, {"max_steps=null", "eval.file="});
  EXPECT_EQ(config.max_steps, std::nullopt);
  EXPECT_EQ(config.eval.file, std::nullopt);
}

TEST(RunConfigOverrides, FillAnEmptyGroup) {
  EXPECT_EQ(MustParse(std::string(kMinimal) + "vision:\n", {"vision.depth=3"}).vision.depth, 3);
}

TEST(RunConfigOverrides, AreNamedInErrors) {
  const auto error = [](const std::string& text) { return ErrorOf(kMinimal, {text}); };
  EXPECT_THAT(error("optimizer.lr=fast"),
              StartsWith("--set optimizer.lr=fast: optimizer.lr: expected a number"));
  EXPECT_THAT(error("optimizer.rl=1"),
              StartsWith("--set optimizer.rl=1: optimizer.rl: unknown key; did you mean "
                         "optimizer.lr? allowed in optimizer: opt, lr, weight_decay"));
  EXPECT_EQ(error("optimizer.lr.x=1"), "--set optimizer.lr.x=1: optimizer.lr.x: unknown key");
  EXPECT_THAT(error("optimizer=1"), StartsWith("--set optimizer=1: optimizer: expected a mapping"));
  EXPECT_THAT(error("optimizer={x: 1}"),
              StartsWith("--set optimizer={x: 1}: optimizer.x: unknown"));
  EXPECT_THAT(error("optimizer.lr"), StartsWith("--set optimizer.lr: expected KEY=VALUE"));
  EXPECT_THAT(error("=1"), StartsWith("--set =1: expected KEY=VALUE"));
  EXPECT_THAT(error("alpha=[1"), StartsWith("--set alpha=[1: not valid YAML"));
  EXPECT_THAT(error("image_res=100"),
              StartsWith("--set image_res=100: image_res: image_res = 100 is not a multiple of"));
}

// ---- Files --------------------------------------------------------------------------------------

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

TEST(CheckNewRun, AsksForWeightsAndVocabularyWithTheAuthorsFiles) {
  EXPECT_THAT(std::string(CheckNewRun(MustParse(kAuthors)).message()),
              AllOf(HasSubstr("deit_base_patch16_224"), HasSubstr("bert-base-uncased")));
  EXPECT_THAT(std::string(CheckNewRun(MustParse(kAuthors, {"init.checkpoint=x.pth"})).message()),
              StartsWith("tokenizer.vocab: missing"));
  EXPECT_TRUE(
      CheckNewRun(MustParse(kAuthors, {"init.checkpoint=x.pth", "tokenizer.vocab=v.txt"})).ok());
}

// ---- Resolved, compared -------------------------------------------------------------------------

TEST(ResolvedYaml, ReadsBackAsTheSameConfig) {
  RunConfig config = MustParse(kAuthors);
  EXPECT_EQ(MustParse(ResolvedYaml(config)), config);

  config.train_file = {"null",           "~",   "a b",  "quote\"back\\slash",
                       "tab\tline\nend", "ünï", "1e-4", "*alias",
                       "&anchor",        "#",   "-",    "a: b",
                       "\x7f",           "\x01"};
  config.data.root = "true";
  config.init = {.visual_encoder = "null", .text_encoder = "~", .checkpoint = std::nullopt};
  config.bert_config.vocab_size.reset();
  config.bert_config.layer_norm_eps = 1e-12;
  config.optimizer.lr = 0.1 + 0.2;
  config.seed = 18446744073709551615u;
  config.deterministic = false;
  config.max_steps = 1000000000000000;
  config.precision = RunConfig::Precision::kTf32;
  config.data.augment_compat = RunConfig::AugmentCompat::kOfficial;
  EXPECT_EQ(MustParse(ResolvedYaml(config)), config);
}

TEST(ResolvedYaml, WritesEveryKeyInItsGroup) {
  const std::string yaml = ResolvedYaml(MustParse(kMinimal));
  EXPECT_THAT(yaml, StartsWith("train_file: [train.json]\nbert_config:\n  architectures: "));
  EXPECT_THAT(yaml, HasSubstr("  vocab_size: auto\n"));
  EXPECT_THAT(yaml, HasSubstr("optimizer:\n  opt: adamW\n  lr: 0.0001\n  weight_decay: 0.02\n"));
  EXPECT_THAT(yaml, HasSubstr("\nmax_steps: null\n"));
}

std::vector<std::string> DifferingKeys(const RunConfig& a, const RunConfig& b) {
  std::vector<std::string> keys;
  for (const ConfigDifference& difference : DifferencesThatChangeTheResult(a, b)) {
    keys.push_back(difference.key);
  }
  return keys;
}

TEST(ConfigDifferences, NameTheKeysThatChangeTheResultWithBothValues) {
  const RunConfig run = MustParse(kAuthors);
  const RunConfig other = MustParse(kAuthors, {"optimizer.lr=3e-4", "schedular.epochs=2"});
  const std::vector<ConfigDifference> differences = DifferencesThatChangeTheResult(run, other);
  ASSERT_EQ(differences.size(), 2u);
  EXPECT_EQ(differences[0].key, "optimizer.lr");
  EXPECT_EQ(differences[0].before, "0.0001");
  EXPECT_EQ(differences[0].after, "0.0003");
  EXPECT_EQ(differences[1].key, "schedular.epochs");
  EXPECT_NE(ConfigDigest(run), ConfigDigest(other));
}

TEST(ConfigDifferences, CoverTheMathsAndNothingElse) {
  const RunConfig run = MustParse(kAuthors, {"virtual_ranks=2", "threads_per_worker=1"});
  struct Case {
    std::string override;
    bool changes;
  };
  const std::vector<Case> cases = {
      {"seed=1", true},
      {"batch_size=32", true},
      {"bert_config.hidden_dropout_prob=0", true},
      {"vision.depth=6", true},
      {"data.max_words=20", true},
      {"data.augment=false", true},
      {"data.augment_compat=official", true},
      {"teacher_dropout=false", true},
      {"precision=tf32", true},
      {"virtual_ranks=4", true},
      {"threads_per_worker=2", true},
      {"schedular.warmup_epochs=1", true},
      {"schedular.step_size=10", true},
      {"train_file=other.json", true},
      {"bert_config.vocab_size=100", true},
      {"schedular.lr=1", false},
      {"schedular.cooldown_epochs=1", false},
      {"data.num_threads=16", false},
      {"data.prefetch_batches=9", false},
      {"data.max_bad_fraction=0.5", false},
      {"data.root=/elsewhere", false},
      {"tokenizer.vocab=/elsewhere/vocab.txt", false},
      {"train_file=[/new/coco.json, /new/vg.json, sbu.json, x/cc3m.json]", false},
      {"checkpoint={every_steps: 5, keep: 9}", false},
      {"eval.file=test.json", false},
      {"max_steps=5", false},
      {"log_every_steps=1", false},
      {"max_skipped_steps_in_a_row=1", false},
      {"init.checkpoint=a.pth", false},
  };
  for (const Case& c : cases) {
    const RunConfig other =
        MustParse(kAuthors, {"virtual_ranks=2", "threads_per_worker=1", c.override});
    ASSERT_NE(other, run) << c.override;
    if (c.changes) {
      EXPECT_THAT(DifferingKeys(run, other),
                  ElementsAre(c.override.substr(0, c.override.find('='))));
      EXPECT_NE(ConfigDigest(run), ConfigDigest(other)) << c.override;
    } else {
      EXPECT_THAT(DifferingKeys(run, other), IsEmpty()) << c.override;
      EXPECT_EQ(ConfigDigest(run), ConfigDigest(other)) << c.override;
    }
  }
}

TEST(ConfigDifferences, WhatWasLeftToTheFirstStartIsTakenFromTheRun) {
  const RunConfig run = MustParse(kMinimal, {"virtual_ranks=4", "threads_per_worker=2",
                                             "deterministic=true", "bert_config.vocab_size=99"});
  RunConfig config = MustParse(kMinimal);
  EXPECT_THAT(DifferingKeys(run, config), IsEmpty());
  FillFromRun(run, config);
  EXPECT_EQ(config, run);
  RunConfig other = MustParse(kMinimal, {"virtual_ranks=3"});
  FillFromRun(run, other);
  EXPECT_EQ(other.virtual_ranks, 3);
  EXPECT_THAT(DifferingKeys(run, other), ElementsAre("virtual_ranks"));
}

TEST(ConfigDigest, StaysTheSameAcrossVersionsOfTheProgram) {
  // A changed value makes every existing run refuse to resume: change it only with the meaning.
  EXPECT_EQ(ConfigDigest(MustParse(kAuthors)), "1ecc86fd1d11b5cc1bc95a50dba74d80");
}

}  // namespace
}  // namespace albef
