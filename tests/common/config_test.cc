#include "common/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>

#include "common/file.h"
#include "common/random.h"
#include "tests/common/config_texts.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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
activation_checkpointing: blocks
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
  EXPECT_EQ(config.activation_checkpointing, RunConfig::ActivationCheckpointing::kBlocks);
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
      BadLine{"distributed: {backend: nccl}",
              "distributed: unknown key; allowed: train_file, bert_conf"},
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
      BadLine{"elastic: {hang_limit_s: 0}", "elastic.hang_limit_s: "},
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
      BadLine{"precision: fp16",
              "precision: \"fp16\" is not available in this version; allowed: fp32, tf32, bf16"},
      BadLine{"activation_checkpointing: all",
              "activation_checkpointing: \"all\" is not available in this version; allowed: none, "
              "blocks"},
      BadLine{"reduction: ring",
              "reduction: \"ring\" is not available in this version; allowed: tree, nccl"},
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

TEST(RunConfig, NamesTheLineOfWhatTheDeviceOrDeterminismRulesOut) {
  const auto error_of = [](std::string_view lines, std::string device) {
    const auto config = ParseRunConfig(fmt::format("{}{}\n", kMinimal, lines), "run.yaml",
                                       {.check_files = false, .device = std::move(device)});
    return std::string(config.status().message());
  };
  EXPECT_THAT(error_of("seed: 1\nreduction: nccl", "cpu"),
              StartsWith("run.yaml:4: reduction: nccl adds gradients on GPUs, and this is --device "
                         "cpu; allowed here: tree"));
  EXPECT_THAT(error_of("deterministic: true\nreduction: nccl", "cuda"),
              StartsWith("run.yaml:4: reduction: nccl adds gradients in an order that depends on"));
  EXPECT_EQ(error_of("reduction: nccl", "cuda"), "");
  EXPECT_EQ(error_of("reduction: nccl", ""), "");
  EXPECT_EQ(error_of("reduction: tree\ndeterministic: true", "cpu"), "");
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

}  // namespace
}  // namespace albef
