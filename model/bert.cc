#include "model/bert.h"

#include <ATen/record_function.h>

#include <string>

#include "model/activation_checkpointing.h"
#include "model/attention.h"
#include "model/dropout.h"
#include "model/embedding_lookup.h"

namespace albef {
namespace {

using ModulePointer = std::shared_ptr<torch::nn::Module>;

// A level of names without behaviour.
ModulePointer AddLevel(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>());
}

// 0 where the mask is 1, −10000 where it is 0.
torch::Tensor AdditiveMask(const torch::Tensor& mask_RT, at::ScalarType dtype) {
  return (1 - mask_RT.unsqueeze(1).unsqueeze(1).to(dtype)) * -10000.0;
}

// (G·B,S,D) → (B,G·S,D): the queries of all rows that look at one image side by side.
torch::Tensor GroupByImage(const torch::Tensor& rows_RSD, int64_t num_images) {
  const int64_t groups = rows_RSD.size(0) / num_images;
  return rows_RSD.unflatten(0, {groups, num_images}).transpose(0, 1).flatten(1, 2);
}

// The inverse, flat: (B,G·S,D) → (G·B·S,D).
torch::Tensor FlattenFromImages(const torch::Tensor& grouped_BLD, int64_t length) {
  return grouped_BLD.unflatten(1, {-1, length}).transpose(0, 1).flatten(0, 2);
}

// Concatenates what is defined.
torch::Tensor CatDefined(std::initializer_list<torch::Tensor> parts) {
  std::vector<torch::Tensor> defined;
  for (const torch::Tensor& part : parts) {
    if (part.defined()) defined.push_back(part);
  }
  return defined.size() == 1 ? defined.front() : at::cat(defined, 0);
}

int64_t Rows(const torch::Tensor& x) { return x.defined() ? x.size(0) : 0; }

// What the layers of one fusion pass share: the rows of the three kinds, one after the other, and
// what belongs to them.
struct FusionRows {
  int64_t token_rows;
  int64_t match_rows;
  int64_t gathered_rows;
  int64_t length;
  torch::Tensor mask_R11T;
  torch::Tensor token_index_N;
  torch::Tensor gather_index_S;
};

// A fusion layer that computes all tokens of all rows.
torch::Tensor RunFusionLayer(BertLayerImpl& layer, const FusionRows& rows,
                             const torch::Tensor& x_RTD, const KeyValue& image) {
  const int64_t own_rows = rows.token_rows + rows.match_rows;
  std::vector<QuerySegment> segments;
  if (own_rows > 0) segments.push_back({.rows = own_rows, .length = rows.length});
  if (rows.gathered_rows > 0) {
    segments.push_back({.rows = rows.gathered_rows, .length = rows.length, .own_image = false});
  }
  const torch::Tensor attended_RTD = layer.SelfAttend(x_RTD, x_RTD, rows.mask_R11T);
  const torch::Tensor crossed_MD =
      layer.CrossAttend(attended_RTD.flatten(0, 1), segments, image, rows.gather_index_S);
  return layer.FeedForward(crossed_MD).unflatten(0, {x_RTD.size(0), rows.length});
}

// The last layer, where only the chosen tokens or [CLS] are read: (N + cls rows, D).
torch::Tensor RunLastFusionLayer(BertLayerImpl& layer, const FusionRows& rows,
                                 const torch::Tensor& x_RTD, const KeyValue& image) {
  const int64_t cls_rows = rows.match_rows + rows.gathered_rows;
  std::vector<QuerySegment> segments;
  torch::Tensor token_MD;
  torch::Tensor cls_RD;
  if (rows.token_rows > 0) {
    const torch::Tensor rows_BTD = x_RTD.narrow(0, 0, rows.token_rows);
    token_MD = layer.SelfAttend(rows_BTD, rows_BTD, rows.mask_R11T.narrow(0, 0, rows.token_rows))
                   .flatten(0, 1);
    segments.push_back({.rows = rows.token_rows, .length = rows.length});
  }
  if (cls_rows > 0) {
    const torch::Tensor rows_RTD = x_RTD.narrow(0, rows.token_rows, cls_rows);
    cls_RD = layer
                 .SelfAttend(rows_RTD.narrow(1, 0, 1), rows_RTD,
                             rows.mask_R11T.narrow(0, rows.token_rows, cls_rows))
                 .flatten(0, 1);
    if (rows.match_rows > 0) segments.push_back({.rows = rows.match_rows, .length = 1});
    if (rows.gathered_rows > 0) {
      segments.push_back({.rows = rows.gathered_rows, .length = 1, .own_image = false});
    }
  }
  const torch::Tensor crossed_MD =
      layer.CrossAttend(CatDefined({token_MD, cls_RD}), segments, image, rows.gather_index_S);
  torch::Tensor chosen_ND;
  if (rows.token_rows > 0) chosen_ND = crossed_MD.index_select(0, rows.token_index_N);
  torch::Tensor crossed_cls_RD;
  if (cls_rows > 0) {
    crossed_cls_RD = crossed_MD.narrow(0, rows.token_rows * rows.length, cls_rows);
  }
  return layer.FeedForward(CatDefined({chosen_ND, crossed_cls_RD}));
}

}  // namespace

BertAttentionImpl::BertAttentionImpl(const BertOptions& options, int64_t context_width)
    : heads_(options.num_attention_heads),
      hidden_dropout_(options.hidden_dropout_prob),
      attention_dropout_(options.attention_probs_dropout_prob) {
  const int64_t width = options.hidden_size;
  const ModulePointer self = AddLevel(*this, "self");
  query_ = self->register_module("query", Linear(width, width));
  key_ = self->register_module("key", Linear(context_width, width));
  value_ = self->register_module("value", Linear(context_width, width));
  const ModulePointer output = AddLevel(*this, "output");
  dense_ = output->register_module("dense", Linear(width, width));
  norm_ = output->register_module("LayerNorm", LayerNorm(width, options.layer_norm_eps));
}

KeyValue BertAttentionImpl::ProjectKeyValue(const torch::Tensor& context_BSD) {
  return {SplitHeads(key_(context_BSD), heads_), SplitHeads(value_(context_BSD), heads_)};
}

torch::Tensor BertAttentionImpl::Attend(const torch::Tensor& query_BTD, const KeyValue& key_value,
                                        const torch::Tensor& mask_B11S) {
  AttentionOptions options;
  if (mask_B11S.defined()) options.mask_B11S = mask_B11S;
  if (is_training()) options.dropout = attention_dropout_;
  return MergeHeads(
      Attention(SplitHeads(query_BTD, heads_), key_value.key_BASd, key_value.value_BASd, options));
}

torch::Tensor BertAttentionImpl::Finish(const torch::Tensor& attended,
                                        const torch::Tensor& residual) {
  return norm_(Dropout(dense_(attended), hidden_dropout_, is_training()) + residual);
}

BertLayerImpl::BertLayerImpl(const BertOptions& options, bool fusion)
    : hidden_dropout_(options.hidden_dropout_prob) {
  const int64_t width = options.hidden_size;
  attention_ = register_module("attention", BertAttention(options, width));
  if (fusion) {
    crossattention_ =
        register_module("crossattention", BertAttention(options, options.encoder_width));
  }
  intermediate_ = AddLevel(*this, "intermediate")
                      ->register_module("dense", Linear(width, options.intermediate_size));
  const ModulePointer output = AddLevel(*this, "output");
  output_ = output->register_module("dense", Linear(options.intermediate_size, width));
  output_norm_ = output->register_module("LayerNorm", LayerNorm(width, options.layer_norm_eps));
}

torch::Tensor BertLayerImpl::SelfAttend(const torch::Tensor& x_BSD,
                                        const torch::Tensor& context_BTD,
                                        const torch::Tensor& mask_B11T) {
  const torch::Tensor attended_BSD = attention_->Attend(
      attention_->Query(x_BSD), attention_->ProjectKeyValue(context_BTD), mask_B11T);
  return attention_->Finish(attended_BSD, x_BSD);
}

KeyValue BertLayerImpl::ProjectImage(const torch::Tensor& image_embeds_BPD) {
  return crossattention_->ProjectKeyValue(image_embeds_BPD);
}

torch::Tensor BertLayerImpl::CrossAttend(const torch::Tensor& x_MD,
                                         std::span<const QuerySegment> segments,
                                         const KeyValue& image, const torch::Tensor& gather_index) {
  const int64_t num_images = image.key_BASd.size(0);
  const torch::Tensor query_MD = crossattention_->Query(x_MD);
  // All queries of an image stand in one matrix, so that its keys and values are read once.
  std::vector<torch::Tensor> own_queries;
  std::vector<int64_t> own_lengths;
  torch::Tensor gathered_MD;
  int64_t begin = 0;
  for (const QuerySegment& segment : segments) {
    const int64_t size = segment.rows * segment.length;
    const torch::Tensor rows_RSD =
        query_MD.narrow(0, begin, size).unflatten(0, {segment.rows, segment.length});
    begin += size;
    if (segment.own_image) {
      own_queries.push_back(GroupByImage(rows_RSD, num_images));
      own_lengths.push_back(own_queries.back().size(1));
    } else {
      const KeyValue gathered{image.key_BASd.index_select(0, gather_index),
                              image.value_BASd.index_select(0, gather_index)};
      gathered_MD = crossattention_->Attend(rows_RSD, gathered, {}).flatten(0, 1);
    }
  }
  std::vector<torch::Tensor> own_attended;
  if (!own_queries.empty()) {
    own_attended = crossattention_->Attend(at::cat(own_queries, 1), image, {})
                       .split_with_sizes(own_lengths, 1);
  }
  std::vector<torch::Tensor> attended;
  size_t next_own = 0;
  for (const QuerySegment& segment : segments) {
    attended.push_back(segment.own_image
                           ? FlattenFromImages(own_attended[next_own++], segment.length)
                           : gathered_MD);
  }
  return crossattention_->Finish(at::cat(attended, 0), x_MD);
}

torch::Tensor BertLayerImpl::FeedForward(const torch::Tensor& x) {
  const torch::Tensor inner = output_(intermediate_->ForwardGelu(x));
  return output_norm_(Dropout(inner, hidden_dropout_, is_training()) + x);
}

BertEmbeddingsImpl::BertEmbeddingsImpl(const BertOptions& options)
    : pad_token_id_(options.pad_token_id), hidden_dropout_(options.hidden_dropout_prob) {
  const int64_t width = options.hidden_size;
  register_buffer("position_ids", torch::arange(options.max_position_embeddings).unsqueeze(0));
  word_ = register_module("word_embeddings", Embedding(options.vocab_size, width));
  position_ =
      register_module("position_embeddings", Embedding(options.max_position_embeddings, width));
  token_type_ = register_module("token_type_embeddings", Embedding(options.type_vocab_size, width));
  norm_ = register_module("LayerNorm", LayerNorm(width, options.layer_norm_eps));
}

torch::Tensor BertEmbeddingsImpl::forward(const torch::Tensor& ids_RT) {
  const int64_t length = ids_RT.size(1);
  TORCH_CHECK(length <= position_->weight.size(0), "text of ", length,
              " tokens, but max_position_embeddings is ", position_->weight.size(0));
  const torch::Tensor sum_RTD = LookUp(word_->weight, ids_RT, pad_token_id_) +
                                token_type_->weight.select(0, 0) +
                                position_->weight.narrow(0, 0, length);
  return Dropout(norm_(sum_RTD), hidden_dropout_, is_training());
}

BertModelImpl::BertModelImpl(const BertOptions& options)
    : fusion_layer_(options.fusion_layer),
      activation_checkpointing_(options.activation_checkpointing) {
  embeddings_ = register_module("embeddings", BertEmbeddings(options));
  const ModulePointer layer = AddLevel(*AddLevel(*this, "encoder"), "layer");
  for (int64_t i = 0; i < options.num_hidden_layers; ++i) {
    layers_.push_back(
        layer->register_module(std::to_string(i), BertLayer(options, i >= fusion_layer_)));
  }
}

TextOutput BertModelImpl::EncodeText(const torch::Tensor& ids_RT, const torch::Tensor& mask_RT,
                                     int64_t num_cls_rows) {
  RECORD_USER_SCOPE("text encoder");
  TORCH_CHECK(ids_RT.dim() == 2 && ids_RT.sizes() == mask_RT.sizes(),
              "ids and mask: expected two equal shapes (R, T), got ", ids_RT.sizes(), " and ",
              mask_RT.sizes());
  torch::Tensor x_RTD = embeddings_(ids_RT);
  const torch::Tensor mask_R11T = AdditiveMask(mask_RT, x_RTD.scalar_type());
  const auto run = [this](BertLayer layer, const torch::Tensor& rows_RTD,
                          const torch::Tensor& rows_mask_R11T) {
    return RunBlock(
        activation_checkpointing_, {rows_RTD},
        [layer, rows_mask_R11T](const std::vector<torch::Tensor>& inputs) mutable {
          return layer->FeedForward(layer->SelfAttend(inputs[0], inputs[0], rows_mask_R11T));
        });
  };
  for (int64_t i = 0; i + 1 < fusion_layer_; ++i) x_RTD = run(layers_[i], x_RTD, mask_R11T);
  BertLayer& last = layers_[fusion_layer_ - 1];
  TextOutput output;
  if (num_cls_rows > 0) {
    const torch::Tensor rows_RTD = x_RTD.narrow(0, 0, num_cls_rows);
    const torch::Tensor cls_R1D =
        last->SelfAttend(rows_RTD.narrow(1, 0, 1), rows_RTD, mask_R11T.narrow(0, 0, num_cls_rows));
    output.cls_RD = last->FeedForward(cls_R1D).squeeze(1);
  }
  if (const int64_t rest = x_RTD.size(0) - num_cls_rows; rest > 0) {
    output.hidden_RTD =
        run(last, x_RTD.narrow(0, num_cls_rows, rest), mask_R11T.narrow(0, num_cls_rows, rest));
  }
  return output;
}

std::vector<KeyValue> BertModelImpl::ProjectImage(const torch::Tensor& image_embeds_BPD) {
  RECORD_USER_SCOPE("fusion encoder");
  std::vector<KeyValue> images;
  for (size_t i = fusion_layer_; i < layers_.size(); ++i) {
    images.push_back(layers_[i]->ProjectImage(image_embeds_BPD));
  }
  return images;
}

FusionOutput BertModelImpl::Fuse(const FusionInput& input, std::span<const KeyValue> images) {
  RECORD_USER_SCOPE("fusion encoder");
  TORCH_CHECK(images.size() == layers_.size() - fusion_layer_, "images: expected ",
              layers_.size() - fusion_layer_, " pairs of keys and values, got ", images.size());
  const int64_t num_images = images[0].key_BASd.size(0);
  const int64_t token_rows = Rows(input.token_BTD);
  const int64_t match_rows = Rows(input.match_RTD);
  const int64_t gathered_rows = Rows(input.gathered_STD);
  TORCH_CHECK(match_rows % num_images == 0 && (token_rows == 0 || token_rows == num_images),
              token_rows, " token rows and ", match_rows, " match rows for ", num_images,
              " images");

  torch::Tensor x_RTD = CatDefined({input.token_BTD, input.match_RTD, input.gathered_STD});
  const FusionRows rows{
      .token_rows = token_rows,
      .match_rows = match_rows,
      .gathered_rows = gathered_rows,
      .length = x_RTD.size(1),
      .mask_R11T = AdditiveMask(
          CatDefined({input.token_mask_BT, input.match_mask_RT, input.gathered_mask_ST}),
          x_RTD.scalar_type()),
      .token_index_N = input.token_index_N,
      .gather_index_S = input.gather_index_S};
  // Keys and values stay outside of the blocks: their gradients meet at the image in the same order
  // as without checkpointing.
  const auto run = [&](size_t i, auto* run_layer) {
    const KeyValue& image = images[i - fusion_layer_];
    return RunBlock(
        activation_checkpointing_, {x_RTD, image.key_BASd, image.value_BASd},
        [layer = layers_[i], rows, run_layer](const std::vector<torch::Tensor>& inputs) mutable {
          return run_layer(*layer, rows, inputs[0], {inputs[1], inputs[2]});
        });
  };
  for (size_t i = fusion_layer_; i + 1 < layers_.size(); ++i) x_RTD = run(i, &RunFusionLayer);
  const torch::Tensor last_MD = run(layers_.size() - 1, &RunLastFusionLayer);

  FusionOutput output;
  const int64_t chosen = token_rows > 0 ? input.token_index_N.size(0) : 0;
  if (token_rows > 0) output.token_ND = last_MD.narrow(0, 0, chosen);
  if (match_rows > 0) output.match_RD = last_MD.narrow(0, chosen, match_rows);
  if (gathered_rows > 0) {
    output.gathered_SD = last_MD.narrow(0, chosen + match_rows, gathered_rows);
  }
  return output;
}

BertPredictionsImpl::BertPredictionsImpl(const BertOptions& options) {
  const int64_t width = options.hidden_size;
  bias_ = register_parameter("bias", torch::zeros({options.vocab_size}));
  const ModulePointer transform = AddLevel(*this, "transform");
  dense_ = transform->register_module("dense", Linear(width, width));
  norm_ = transform->register_module("LayerNorm", LayerNorm(width, options.layer_norm_eps));
}

torch::Tensor BertPredictionsImpl::forward(const torch::Tensor& hidden_ND,
                                           const torch::Tensor& word_weight_VD) {
  return MixedLinear(norm_(dense_->ForwardGelu(hidden_ND)), word_weight_VD, bias_, decoder_shadow_,
                     bias_.scalar_type());
}

void BertPredictionsImpl::BindShadows(const ShadowSource& shadow_of,
                                      const torch::Tensor& word_weight_VD) {
  decoder_shadow_ = {.weight_NK = shadow_of(word_weight_VD), .bias_N = shadow_of(bias_)};
}

BertForMaskedLMImpl::BertForMaskedLMImpl(const BertOptions& options) {
  bert_ = register_module("bert", BertModel(options));
  predictions_ = AddLevel(*this, "cls")->register_module("predictions", BertPredictions(options));
}

}  // namespace albef
