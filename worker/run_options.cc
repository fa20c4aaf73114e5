#include "worker/run_options.h"

#include <algorithm>

namespace albef {

namespace {

ActivationCheckpointing CheckpointingOf(const RunConfig& config) {
  return config.activation_checkpointing == RunConfig::ActivationCheckpointing::kBlocks
             ? ActivationCheckpointing::kBlocks
             : ActivationCheckpointing::kNone;
}

}  // namespace

AlbefOptions ModelOptions(const RunConfig& config) {
  const RunConfig::Bert& bert = config.bert_config;
  TORCH_CHECK(bert.vocab_size.has_value(), "ModelOptions: vocab_size must be known by now");
  AlbefOptions options;
  options.vision = {.image_res = config.image_res,
                    .patch_size = config.vision.patch_size,
                    .width = config.vision_width,
                    .depth = config.vision.depth,
                    .heads = config.vision.heads,
                    .mlp_ratio = config.vision.mlp_ratio,
                    .activation_checkpointing = CheckpointingOf(config)};
  options.bert = {.vocab_size = *bert.vocab_size,
                  .hidden_size = bert.hidden_size,
                  .num_hidden_layers = bert.num_hidden_layers,
                  .num_attention_heads = bert.num_attention_heads,
                  .intermediate_size = bert.intermediate_size,
                  .max_position_embeddings = bert.max_position_embeddings,
                  .type_vocab_size = bert.type_vocab_size,
                  .fusion_layer = bert.fusion_layer,
                  .encoder_width = bert.encoder_width,
                  .layer_norm_eps = bert.layer_norm_eps,
                  .hidden_dropout_prob = bert.hidden_dropout_prob,
                  .attention_probs_dropout_prob = bert.attention_probs_dropout_prob,
                  .initializer_range = bert.initializer_range,
                  .pad_token_id = bert.pad_token_id,
                  .activation_checkpointing = CheckpointingOf(config)};
  options.embed_dim = config.embed_dim;
  options.queue_size = config.queue_size;
  options.temperature = config.temp;
  options.teacher_dropout = config.teacher_dropout;
  return options;
}

TrainStateOptions StateOptions(const RunConfig& config, torch::Device device) {
  TrainStateOptions options;
  options.momentum = config.momentum;
  options.adamw.weight_decay = config.optimizer.weight_decay;
  options.device = device;
  options.bf16_products = config.precision == RunConfig::Precision::kBf16;
  return options;
}

ScheduleOptions LearningRateOptions(const RunConfig& config) {
  return {.lr = config.optimizer.lr,
          .min_lr = config.schedular.min_lr,
          .warmup_lr = config.schedular.warmup_lr,
          .epochs = config.schedular.epochs,
          .warmup_epochs = config.schedular.warmup_epochs,
          .step_size = config.schedular.step_size};
}

DistillationOptions AlphaOptions(const RunConfig& config) { return {.alpha = config.alpha}; }

GradientOrder ReductionOrder(const RunConfig& config) {
  return config.reduction == RunConfig::Reduction::kNccl ? GradientOrder::kTransport
                                                         : GradientOrder::kTree;
}

}  // namespace albef
