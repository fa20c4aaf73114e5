// A network of a few thousand values, for tests of what is around it: a step takes milliseconds.
#ifndef ALBEF_TESTS_MODEL_TINY_MODEL_H_
#define ALBEF_TESTS_MODEL_TINY_MODEL_H_

#include <cstdint>

#include "model/options.h"

namespace albef {

// One vision layer, a text layer and a fusion layer; 50 words, at most 8 tokens, 16 x 16 pixels.
// Valid as it is; safe to call from any thread.
inline AlbefOptions TinyModelOptions(int64_t queue_size) {
  AlbefOptions options;
  options.vision = {.image_res = 16, .patch_size = 8, .width = 16, .depth = 1, .heads = 2};
  options.bert.vocab_size = 50;
  options.bert.hidden_size = 16;
  options.bert.num_hidden_layers = 2;
  options.bert.num_attention_heads = 2;
  options.bert.intermediate_size = 32;
  options.bert.max_position_embeddings = 8;
  options.bert.fusion_layer = 1;
  options.bert.encoder_width = 16;
  options.embed_dim = 8;
  options.queue_size = queue_size;
  return options;
}

}  // namespace albef

#endif  // ALBEF_TESTS_MODEL_TINY_MODEL_H_
