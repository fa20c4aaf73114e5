// Configurations as text, for the tests of the configuration, and short ways to parse them. Nothing
// here looks for the files that they name.
#ifndef ALBEF_TESTS_COMMON_CONFIG_TEXTS_H_
#define ALBEF_TESTS_COMMON_CONFIG_TEXTS_H_

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config.h"

namespace albef {

// Two required keys; tests add lines behind these.
inline constexpr std::string_view kMinimal =
    "train_file: train.json\n"
    "bert_config: {}\n";

inline absl::StatusOr<RunConfig> Parse(std::string_view yaml,
                                       std::vector<std::string> overrides = {}) {
  return ParseRunConfig(yaml, "run.yaml",
                        {.overrides = std::move(overrides), .check_files = false});
}

inline RunConfig MustParse(std::string_view yaml, std::vector<std::string> overrides = {}) {
  const auto config = Parse(yaml, std::move(overrides));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(RunConfig{});
}

inline std::string ErrorOf(std::string_view yaml, std::vector<std::string> overrides = {}) {
  const auto config = Parse(yaml, std::move(overrides));
  return config.ok() ? "no error" : std::string(config.status().message());
}

// The authors' pretraining file, key for key.
inline constexpr std::string_view kAuthors = R"(train_file: ['json_pretrain/coco.json',
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

}  // namespace albef

#endif  // ALBEF_TESTS_COMMON_CONFIG_TEXTS_H_
