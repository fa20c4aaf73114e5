#include "model/options.h"

#include <fmt/format.h>

namespace albef {
namespace {

absl::Status Positive(const char* name, int64_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} = {}: must be positive", name, value));
}

absl::Status Divides(const char* name, int64_t part, const char* whole_name, int64_t whole) {
  if (whole % part == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} = {} must be a multiple of {} = {}", whole_name, whole, name, part));
}

absl::Status Probability(const char* name, double value) {
  if (value >= 0 && value < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} = {}: must be in [0, 1)", name, value));
}

}  // namespace

absl::Status Validate(const AlbefOptions& options) {
  const VisionOptions& vision = options.vision;
  const BertOptions& bert = options.bert;
  const struct {
    const char* name;
    int64_t value;
  } sizes[] = {
      {"image_res", vision.image_res},
      {"patch_size", vision.patch_size},
      {"vision width", vision.width},
      {"vision depth", vision.depth},
      {"vision heads", vision.heads},
      {"mlp_ratio", vision.mlp_ratio},
      {"vocab_size", bert.vocab_size},
      {"hidden_size", bert.hidden_size},
      {"num_attention_heads", bert.num_attention_heads},
      {"intermediate_size", bert.intermediate_size},
      {"max_position_embeddings", bert.max_position_embeddings},
      {"type_vocab_size", bert.type_vocab_size},
      {"fusion_layer", bert.fusion_layer},
      {"embed_dim", options.embed_dim},
      {"queue_size", options.queue_size},
  };
  for (const auto& [name, value] : sizes) {
    if (absl::Status status = Positive(name, value); !status.ok()) return status;
  }
  for (const absl::Status& status : {
           Divides("patch_size", vision.patch_size, "image_res", vision.image_res),
           Divides("vision heads", vision.heads, "vision width", vision.width),
           Divides("num_attention_heads", bert.num_attention_heads, "hidden_size",
                   bert.hidden_size),
           Probability("hidden_dropout_prob", bert.hidden_dropout_prob),
           Probability("attention_probs_dropout_prob", bert.attention_probs_dropout_prob),
       }) {
    if (!status.ok()) return status;
  }
  if (bert.num_hidden_layers <= bert.fusion_layer) {
    return absl::InvalidArgumentError(
        fmt::format("num_hidden_layers = {} leaves no layer from fusion_layer = {} on: image-text "
                    "matching needs at least one",
                    bert.num_hidden_layers, bert.fusion_layer));
  }
  if (bert.encoder_width != vision.width) {
    return absl::InvalidArgumentError(fmt::format(
        "encoder_width = {} must equal the vision width = {}", bert.encoder_width, vision.width));
  }
  if (bert.pad_token_id < 0 || bert.pad_token_id >= bert.vocab_size) {
    return absl::InvalidArgumentError(fmt::format("pad_token_id = {} is outside vocab_size = {}",
                                                  bert.pad_token_id, bert.vocab_size));
  }
  if (!(options.temperature > 0)) {
    return absl::InvalidArgumentError(
        fmt::format("temp = {}: must be positive", options.temperature));
  }
  return absl::OkStatus();
}

}  // namespace albef
