// BERT as ALBEF uses it: the lower layers read text, the upper ones also look at an image (spec
// §1.3, §2). Post-norm. Parameter names are the authors'.
//
// The passes compute only what is read afterwards (spec §8.B): image keys and values come from
// outside and serve any number of texts, and the last layer is evaluated at [CLS] or at the masked
// tokens alone. Without dropout the results equal the plain forms.
//
// Letters: B images, R rows of text, T tokens of a row, P image tokens, D width, A heads, d width
// of a head, N selected tokens, V vocabulary.
#ifndef ALBEF_MODEL_BERT_H_
#define ALBEF_MODEL_BERT_H_

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <span>
#include <vector>

#include "model/layers.h"
#include "model/mixed_linear.h"
#include "model/options.h"

namespace albef {

struct KeyValue {
  torch::Tensor key_BASd;
  torch::Tensor value_BASd;
};

// Self- or cross-attention with its output projection, residual and LayerNorm.
class BertAttentionImpl : public torch::nn::Module {
 public:
  // `context_width` is the width of what keys and values are made from.
  BertAttentionImpl(const BertOptions& options, int64_t context_width);

  torch::Tensor Query(const torch::Tensor& x) { return query_(x); }
  KeyValue ProjectKeyValue(const torch::Tensor& context_BSD);

  // What `query_BTD` finds, heads merged. `mask_B11S` may be undefined.
  torch::Tensor Attend(const torch::Tensor& query_BTD, const KeyValue& key_value,
                       const torch::Tensor& mask_B11S);

  // LayerNorm(dropout(dense(attended)) + residual).
  torch::Tensor Finish(const torch::Tensor& attended, const torch::Tensor& residual);

 private:
  int64_t heads_;
  double hidden_dropout_;
  double attention_dropout_;
  Linear query_ = nullptr;
  Linear key_ = nullptr;
  Linear value_ = nullptr;
  Linear dense_ = nullptr;
  LayerNorm norm_ = nullptr;
};
TORCH_MODULE(BertAttention);

// Rows of equal length that stand one after the other in a (rows·length, D) matrix of queries.
struct QuerySegment {
  int64_t rows = 0;
  int64_t length = 0;
  // Row r looks at image r mod B; otherwise at image gather_index[r].
  bool own_image = true;
};

class BertLayerImpl : public torch::nn::Module {
 public:
  BertLayerImpl(const BertOptions& options, bool fusion);

  // Self-attention of `x_BSD`, a leading part of the tokens of `context_BTD`, over all of these.
  torch::Tensor SelfAttend(const torch::Tensor& x_BSD, const torch::Tensor& context_BTD,
                           const torch::Tensor& mask_B11T);

  // Fusion layers only: keys and values of image tokens.
  KeyValue ProjectImage(const torch::Tensor& image_embeds_BPD);

  // Fusion layers only: cross-attention of the queries that `segments` describe. `gathered` holds
  // the images of the one segment without own images, if there is one.
  torch::Tensor CrossAttend(const torch::Tensor& x_MD, std::span<const QuerySegment> segments,
                            const KeyValue& image, const torch::Tensor& gather_index);

  torch::Tensor FeedForward(const torch::Tensor& x);

 private:
  double hidden_dropout_;
  BertAttention attention_ = nullptr;
  BertAttention crossattention_ = nullptr;  // empty below the fusion layers
  Linear intermediate_ = nullptr;
  Linear output_ = nullptr;
  LayerNorm output_norm_ = nullptr;
};
TORCH_MODULE(BertLayer);

class BertEmbeddingsImpl : public torch::nn::Module {
 public:
  explicit BertEmbeddingsImpl(const BertOptions& options);

  // The look-up gives no gradient to the row of the padding id, whatever stands there (spec §1.3).
  torch::Tensor forward(const torch::Tensor& ids_RT);

  const torch::Tensor& word_weight() const { return word_->weight; }

 private:
  int64_t pad_token_id_;
  double hidden_dropout_;
  Embedding word_ = nullptr;
  Embedding position_ = nullptr;
  Embedding token_type_ = nullptr;
  LayerNorm norm_ = nullptr;
};
TORCH_MODULE(BertEmbeddings);

// Texts for the fusion layers. Any part may be undefined, but not all.
struct FusionInput {
  // Of these the output at token_index_N (flat b·T+t, ascending) is wanted. Row b looks at image b.
  torch::Tensor token_BTD{};
  torch::Tensor token_mask_BT{};
  torch::Tensor token_index_N{};
  // Of these the output at [CLS] is wanted. Row r looks at image r mod B.
  torch::Tensor match_RTD{};
  torch::Tensor match_mask_RT{};
  // Likewise, but row s looks at image gather_index_S[s]. T as above.
  torch::Tensor gathered_STD{};
  torch::Tensor gathered_mask_ST{};
  torch::Tensor gather_index_S{};
};

struct FusionOutput {
  torch::Tensor token_ND;
  torch::Tensor match_RD;
  torch::Tensor gathered_SD;
};

// Text after the layers below fusion: of the first rows only [CLS], of the others all tokens.
struct TextOutput {
  torch::Tensor cls_RD;
  torch::Tensor hidden_RTD;
};

// Module `bert`.
class BertModelImpl : public torch::nn::Module {
 public:
  explicit BertModelImpl(const BertOptions& options);

  // Runs embeddings and the layers below fusion; rows before `num_cls_rows` give [CLS] alone.
  TextOutput EncodeText(const torch::Tensor& ids_RT, const torch::Tensor& mask_RT,
                        int64_t num_cls_rows = 0);

  // Keys and values of images, one per fusion layer.
  std::vector<KeyValue> ProjectImage(const torch::Tensor& image_embeds_BPD);

  FusionOutput Fuse(const FusionInput& input, std::span<const KeyValue> images);

  const torch::Tensor& word_weight() const { return embeddings_->word_weight(); }

 private:
  int64_t fusion_layer_;
  ActivationCheckpointing activation_checkpointing_;
  BertEmbeddings embeddings_ = nullptr;
  std::vector<BertLayer> layers_;
};
TORCH_MODULE(BertModel);

// Module `cls.predictions`. Its decoder weight is the word embedding, registered there only, and
// its decoder bias is `bias`, registered under this name only: whoever reads or writes the authors'
// state dict adds the two second names.
class BertPredictionsImpl : public torch::nn::Module {
 public:
  explicit BertPredictionsImpl(const BertOptions& options);
  // Scores of the vocabulary, in the dtype of the parameters.
  torch::Tensor forward(const torch::Tensor& hidden_ND, const torch::Tensor& word_weight_VD);

  // Of the decoder; the transform is a reader of its own.
  void BindShadows(const ShadowSource& shadow_of, const torch::Tensor& word_weight_VD);

 private:
  torch::Tensor bias_;
  LinearShadow decoder_shadow_;
  Linear dense_ = nullptr;
  LayerNorm norm_ = nullptr;
};
TORCH_MODULE(BertPredictions);

// Module `text_encoder`: `bert` and `cls.predictions`.
class BertForMaskedLMImpl : public torch::nn::Module, public ShadowReader {
 public:
  explicit BertForMaskedLMImpl(const BertOptions& options);

  BertModelImpl& bert() { return *bert_; }

  // Scores of the vocabulary for last hidden states, (N,V).
  torch::Tensor Predict(const torch::Tensor& hidden_ND) {
    return predictions_(hidden_ND, bert_->word_weight());
  }

  void BindShadows(const ShadowSource& shadow_of) override {
    predictions_->BindShadows(shadow_of, bert_->word_weight());
  }

 private:
  BertModel bert_ = nullptr;
  BertPredictions predictions_ = nullptr;
};
TORCH_MODULE(BertForMaskedLM);

}  // namespace albef

#endif  // ALBEF_MODEL_BERT_H_
