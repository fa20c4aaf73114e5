// The ways out of a configuration: text, differences, digest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config.h"
#include "tests/common/config_texts.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

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
  config.reduction = RunConfig::Reduction::kNccl;
  config.precision = RunConfig::Precision::kBf16;
  config.activation_checkpointing = RunConfig::ActivationCheckpointing::kBlocks;
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
      {"precision=bf16", true},
      {"virtual_ranks=4", true},
      {"threads_per_worker=2", true},
      {"schedular.warmup_epochs=1", true},
      {"schedular.step_size=10", true},
      {"train_file=other.json", true},
      {"bert_config.vocab_size=100", true},
      {"schedular.lr=1", false},
      {"schedular.cooldown_epochs=1", false},
      {"data.num_threads=16", false},
      {"data.index_dir=/scratch", false},
      {"data.prefetch_batches=9", false},
      {"data.max_bad_fraction=0.5", false},
      {"activation_checkpointing=blocks", false},
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

TEST(ConfigDifferences, TheOrderOfAdditionsIsOneOfThemOnceItIsFixed) {
  const RunConfig tree = MustParse(kMinimal, {"reduction=tree"});
  const RunConfig nccl = MustParse(kMinimal, {"reduction=nccl"});
  EXPECT_THAT(DifferingKeys(tree, nccl), ElementsAre("reduction"));
  EXPECT_THAT(DifferingKeys(tree, MustParse(kMinimal)), IsEmpty());
}

TEST(ConfigDifferences, WhatWasLeftToTheFirstStartIsTakenFromTheRun) {
  const RunConfig run =
      MustParse(kMinimal, {"virtual_ranks=4", "threads_per_worker=2", "deterministic=true",
                           "reduction=tree", "bert_config.vocab_size=99"});
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
  EXPECT_EQ(ConfigDigest(MustParse(kAuthors)), "fb160959c1721617322a98bd00e0cdb4");
}

}  // namespace
}  // namespace albef
