// Sizes and constants that define an ALBEF network (spec §1). Defaults are the authors' full-size
// model: ViT-B/16 at 256 pixels and BERT-base with fusion from layer 6.
#ifndef ALBEF_MODEL_OPTIONS_H_
#define ALBEF_MODEL_OPTIONS_H_

#include <cstdint>

#include "absl/status/status.h"

namespace albef {

// What backward computes again instead of finding it (model/activation_checkpointing.h). The
// numbers are the same.
enum class ActivationCheckpointing {
  kNone,
  kBlocks,  // of the image encoder, and BERT's layers: only their inputs are kept
};

struct VisionOptions {
  int64_t image_res = 256;  // pixels, both sides
  int64_t patch_size = 16;
  int64_t width = 768;
  int64_t depth = 12;
  int64_t heads = 12;
  int64_t mlp_ratio = 4;
  double layer_norm_eps = 1e-6;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;

  // Image tokens, [CLS] included.
  int64_t num_tokens() const {
    const int64_t grid = image_res / patch_size;
    return grid * grid + 1;
  }
};

// Names as in BERT's config file. The activation is always GELU with the exact erf.
struct BertOptions {
  int64_t vocab_size = 30522;
  int64_t hidden_size = 768;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 12;
  int64_t intermediate_size = 3072;
  int64_t max_position_embeddings = 512;
  int64_t type_vocab_size = 2;
  int64_t fusion_layer = 6;  // layers from here on cross-attend to the image
  int64_t encoder_width = 768;
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  double initializer_range = 0.02;
  int64_t pad_token_id = 0;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
};

struct AlbefOptions {
  VisionOptions vision;
  BertOptions bert;
  int64_t embed_dim = 256;
  int64_t queue_size = 65536;
  double temperature = 0.07;  // initial; then a parameter
  // The authors' teacher runs with dropout while it trains the student (spec §8.A, T1). False is
  // the cleaner teacher, with other numbers.
  bool teacher_dropout = true;
};

// INVALID_ARGUMENT names the first option that makes no network.
absl::Status Validate(const AlbefOptions& options);

}  // namespace albef

#endif  // ALBEF_MODEL_OPTIONS_H_
