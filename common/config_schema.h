// Every key of the configuration, once: where it is stored, what it may be, and what it changes.
// Reading, writing and comparing configs are visitors over this list. Private to config*.cc.
#ifndef ALBEF_COMMON_CONFIG_SCHEMA_H_
#define ALBEF_COMMON_CONFIG_SCHEMA_H_

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "common/config.h"

namespace albef::config_schema {

enum class Effect {
  kResult,      // on the numbers that training computes
  kFileNames,   // as kResult, but a moved file (same name, other folder) is no change
  kFirstStart,  // as kResult, once both sides have a value
  kNone,
};

struct Rule {
  Effect effect = Effect::kResult;
  bool required = false;
  // Of numbers. A bound is allowed itself unless it is open.
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  std::string_view choice = {};     // the only text that exists so far; empty: any
  std::string_view unset = "null";  // how an empty std::optional is written
  std::string_view why = {};        // the reason of a bound, where it is not plain
};

constexpr double kMaxSize = 1 << 20;  // keeps products of sizes far from overflow
constexpr double kMaxCount = 1e15;    // whole numbers below are exact in a double

constexpr Rule AtLeast(double low, Effect effect = Effect::kResult) {
  return {.effect = effect, .low = low, .high = kMaxCount};
}
constexpr Rule Between(double low, double high, Effect effect = Effect::kResult) {
  return {.effect = effect, .low = low, .high = high};
}
constexpr Rule Size() { return Between(1, kMaxSize); }
constexpr Rule Above(double low, double high) {
  return {.low = low, .high = high, .low_open = true};
}

inline constexpr std::array<std::pair<std::string_view, RunConfig::Precision>, 3> kPrecisions = {
    {{"fp32", RunConfig::Precision::kFp32},
     {"tf32", RunConfig::Precision::kTf32},
     {"bf16", RunConfig::Precision::kBf16}}};
inline constexpr std::array<std::pair<std::string_view, RunConfig::ActivationCheckpointing>, 2>
    kActivationCheckpointings = {{{"none", RunConfig::ActivationCheckpointing::kNone},
                                  {"blocks", RunConfig::ActivationCheckpointing::kBlocks}}};
inline constexpr std::array<std::pair<std::string_view, RunConfig::Reduction>, 2> kReductions = {
    {{"tree", RunConfig::Reduction::kTree}, {"nccl", RunConfig::Reduction::kNccl}}};
inline constexpr std::array<std::pair<std::string_view, RunConfig::AugmentCompat>, 2>
    kAugmentCompats = {{{"corrected", RunConfig::AugmentCompat::kCorrected},
                        {"official", RunConfig::AugmentCompat::kOfficial}}};

constexpr const auto& ChoicesOf(RunConfig::Precision) { return kPrecisions; }
constexpr const auto& ChoicesOf(RunConfig::ActivationCheckpointing) {
  return kActivationCheckpointings;
}
constexpr const auto& ChoicesOf(RunConfig::Reduction) { return kReductions; }
constexpr const auto& ChoicesOf(RunConfig::AugmentCompat) { return kAugmentCompats; }

// Calls visit(dotted key, field, rule) for every key, groups together. `Config` is RunConfig or
// const RunConfig.
template <typename Visitor, typename Config>
void VisitFields(Config& config, Visitor&& visit) {
  constexpr Rule kUnused = {.effect = Effect::kNone};
  constexpr Rule kProbability = Between(0, 1);
  constexpr Rule kDropout = {.low = 0, .high = 1, .high_open = true};
  constexpr Rule kOften = AtLeast(1, Effect::kNone);
  constexpr Rule kRate = AtLeast(0);
  constexpr Rule kSeconds = Between(0, 1e6, Effect::kNone);
  constexpr Rule kLimit = Between(0.1, 1e6, Effect::kNone);

  visit("train_file", config.train_file, {.effect = Effect::kFileNames, .required = true});

  auto& bert = config.bert_config;
  visit("bert_config.architectures", bert.architectures, kUnused);
  visit("bert_config.model_type", bert.model_type, {.effect = Effect::kNone, .choice = "bert"});
  visit("bert_config.hidden_act", bert.hidden_act, {.choice = "gelu"});
  visit("bert_config.hidden_size", bert.hidden_size, Size());
  visit("bert_config.num_hidden_layers", bert.num_hidden_layers, Size());
  visit("bert_config.num_attention_heads", bert.num_attention_heads, Size());
  visit("bert_config.intermediate_size", bert.intermediate_size, Size());
  visit("bert_config.max_position_embeddings", bert.max_position_embeddings, Size());
  visit("bert_config.type_vocab_size", bert.type_vocab_size, Size());
  visit("bert_config.vocab_size", bert.vocab_size,
        {.effect = Effect::kFirstStart, .low = 1, .high = 1 << 24, .unset = "auto"});
  visit("bert_config.pad_token_id", bert.pad_token_id, AtLeast(0, Effect::kNone));
  visit("bert_config.hidden_dropout_prob", bert.hidden_dropout_prob, kDropout);
  visit("bert_config.attention_probs_dropout_prob", bert.attention_probs_dropout_prob, kDropout);
  visit("bert_config.initializer_range", bert.initializer_range, Between(0, 10));
  visit("bert_config.layer_norm_eps", bert.layer_norm_eps, Above(0, 1));
  visit("bert_config.fusion_layer", bert.fusion_layer, Size());
  visit("bert_config.encoder_width", bert.encoder_width, Size());

  visit("image_res", config.image_res, Between(1, 1 << 14));
  visit("vision_width", config.vision_width, Size());
  visit("embed_dim", config.embed_dim, Size());
  visit("batch_size", config.batch_size,
        {.low = 2, .high = kMaxSize, .why = "ITM takes its negatives from the batch"});
  visit("temp", config.temp,
        {.low = 0.001, .high = 0.5, .why = "every step clamps the temperature to this range"});
  visit("mlm_probability", config.mlm_probability, Above(0, 1));
  visit("queue_size", config.queue_size, Between(1, 1 << 30));
  visit("momentum", config.momentum, kProbability);
  visit("alpha", config.alpha, kProbability);

  auto& optimizer = config.optimizer;
  visit("optimizer.opt", optimizer.opt, {.choice = "adamW"});
  visit("optimizer.lr", optimizer.lr, kRate);
  visit("optimizer.weight_decay", optimizer.weight_decay, kRate);

  auto& schedule = config.schedular;
  visit("schedular.sched", schedule.sched, {.choice = "cosine"});
  visit("schedular.lr", schedule.lr, AtLeast(0, Effect::kNone));
  visit("schedular.epochs", schedule.epochs, Size());
  visit("schedular.min_lr", schedule.min_lr, kRate);
  visit("schedular.decay_rate", schedule.decay_rate, AtLeast(0, Effect::kNone));
  visit("schedular.warmup_lr", schedule.warmup_lr, kRate);
  visit("schedular.warmup_epochs", schedule.warmup_epochs, Between(0, kMaxSize));
  visit("schedular.cooldown_epochs", schedule.cooldown_epochs, AtLeast(0, Effect::kNone));
  visit("schedular.step_size", schedule.step_size, Size());

  auto& vision = config.vision;
  visit("vision.patch_size", vision.patch_size, Size());
  visit("vision.depth", vision.depth, Size());
  visit("vision.heads", vision.heads, Size());
  visit("vision.mlp_ratio", vision.mlp_ratio, Between(1, 1 << 10));

  auto& data = config.data;
  visit("data.root", data.root, kUnused);
  visit("data.index_dir", data.index_dir, kUnused);
  visit("data.num_threads", data.num_threads, Between(1, 1024, Effect::kNone));
  visit("data.prefetch_batches", data.prefetch_batches, Between(1, 1024, Effect::kNone));
  visit("data.max_bad_fraction", data.max_bad_fraction, Between(0, 1, Effect::kNone));
  visit("data.max_text_length", data.max_text_length,
        {.low = 2, .high = kMaxSize, .why = "[CLS] and at least one word"});
  visit("data.max_words", data.max_words, Size());
  visit("data.augment", data.augment, {});
  visit("data.augment_compat", data.augment_compat, {});

  visit("init.visual_encoder", config.init.visual_encoder, kUnused);
  visit("init.text_encoder", config.init.text_encoder, kUnused);
  visit("init.checkpoint", config.init.checkpoint, kUnused);

  visit("tokenizer.vocab", config.tokenizer.vocab, kUnused);

  auto& checkpoint = config.checkpoint;
  visit("checkpoint.every_steps", checkpoint.every_steps, kOften);
  visit("checkpoint.every_epochs", checkpoint.every_epochs, kOften);
  visit("checkpoint.keep", checkpoint.keep,
        {.effect = Effect::kNone,
         .low = 2,
         .high = kMaxCount,
         .why = "the newest may turn out to be damaged"});
  visit("checkpoint.keep_every", checkpoint.keep_every, kOften);

  auto& eval = config.eval;
  visit("eval.file", eval.file, kUnused);
  visit("eval.every_epochs", eval.every_epochs, kOften);
  visit("eval.batch_size", eval.batch_size, Between(1, kMaxSize, Effect::kNone));
  visit("eval.rerank_top_k", eval.rerank_top_k, kOften);
  visit("eval.max_images", eval.max_images, kOften);

  auto& elastic = config.elastic;
  visit("elastic.min_workers", elastic.min_workers, kOften);
  visit("elastic.join_window_s", elastic.join_window_s, kSeconds);
  visit("elastic.rejoin_wait_s", elastic.rejoin_wait_s, kSeconds);
  visit("elastic.hang_limit_s", elastic.hang_limit_s, kLimit);
  visit("elastic.startup_limit_s", elastic.startup_limit_s, kLimit);
  visit("elastic.heartbeat_limit_s", elastic.heartbeat_limit_s, kLimit);
  visit("elastic.reattach_window_s", elastic.reattach_window_s, kSeconds);
  visit("elastic.coordinator_wait_s", elastic.coordinator_wait_s, kSeconds);

  visit("precision", config.precision, {});
  visit("activation_checkpointing", config.activation_checkpointing, kUnused);
  visit("virtual_ranks", config.virtual_ranks, Between(1, 1 << 16, Effect::kFirstStart));
  visit("threads_per_worker", config.threads_per_worker, Between(1, 1024, Effect::kFirstStart));
  visit("deterministic", config.deterministic, {.effect = Effect::kFirstStart});
  visit("reduction", config.reduction, {.effect = Effect::kFirstStart});
  visit("seed", config.seed, {});
  visit("max_steps", config.max_steps, kOften);
  visit("log_every_steps", config.log_every_steps, kOften);
  visit("teacher_dropout", config.teacher_dropout, {});
  visit("max_skipped_steps_in_a_row", config.max_skipped_steps_in_a_row, kOften);
}

}  // namespace albef::config_schema

#endif  // ALBEF_COMMON_CONFIG_SCHEMA_H_
