// The ALBEF network: student, momentum teacher, contrastive queues, and the forward pass of one
// pretraining step (spec §1.1, §3).
//
// Parameters and buffers carry the authors' names in their order, each once: the tied names
// `….cls.predictions.decoder.{weight,bias}` are left to the state dict. Weights are zeros until an
// initialisation, import or checkpoint fills them. `to(dtype)` and `to(device)` come before
// anything that aliases the parameters.
//
// Letters: B pairs, C colours, H W pixels, P image tokens, T text tokens, D width, E projection, N
// masked tokens.
//
// Not thread-safe.
#ifndef ALBEF_MODEL_ALBEF_H_
#define ALBEF_MODEL_ALBEF_H_

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <span>
#include <vector>

#include "model/bert.h"
#include "model/layers.h"
#include "model/mixed_linear.h"
#include "model/options.h"
#include "model/vision_transformer.h"

namespace albef {

struct NegativeIndices {
  torch::Tensor image_B;  // negative image of each text
  torch::Tensor text_B;   // negative text of each image
};

// The batch of one virtual rank, on the model's device; the image in the model's dtype, the rest
// int64.
struct PretrainInputs {
  torch::Tensor image_BCHW;  // normalised
  torch::Tensor input_ids_BT;
  torch::Tensor attention_mask_BT;  // 1 for tokens, 0 for padding
  torch::Tensor mlm_input_ids_BT;   // after masking
  torch::Tensor masked_index_N;     // flat b·T+t of the tokens to predict, ascending
  torch::Tensor masked_label_N;     // their true ids
  std::optional<NegativeIndices> negatives = std::nullopt;  // absent: the forward pass draws them
};

struct PretrainOutput {
  // 0-d, differentiable; their sum is the loss of the step.
  torch::Tensor loss_mlm;
  torch::Tensor loss_itc;
  torch::Tensor loss_itm;
  // Teacher features, which the queues take when the step is committed.
  torch::Tensor image_feat_m_BE;
  torch::Tensor text_feat_m_BE;
};

// What happened inside a forward pass, for tests and inspection. Rows of itm_*: pairs, texts with
// negative images, images with negative texts. Teacher scores and targets stay undefined when alpha
// is 0.
struct PretrainTrace {
  torch::Tensor image_embeds_BPD, text_embeds_BTD, image_feat_BE, text_feat_BE;
  torch::Tensor image_embeds_m_BPD;
  torch::Tensor sim_i2t_BC, sim_t2i_BC, sim_i2t_m_BC, sim_t2i_m_BC;  // C = B+Q
  torch::Tensor sim_i2t_targets_BC, sim_t2i_targets_BC;
  torch::Tensor itm_weights_i2t_BB, itm_weights_t2i_BB;  // diagonal 0, not renormalised
  torch::Tensor itm_cls_RD, itm_logits_R2, itm_labels_R;
  torch::Tensor mlm_logits_NV, mlm_logits_m_NV;
  NegativeIndices negatives;
};

struct ImageEncoding {
  torch::Tensor embeds_BPD;
  torch::Tensor feat_BE;  // unit length
};

struct TextEncoding {
  torch::Tensor embeds_BTD;
  torch::Tensor feat_BE;  // unit length
};

class AlbefImpl : public torch::nn::Module {
 public:
  explicit AlbefImpl(const AlbefOptions& options);

  // The forward pass of one virtual rank. Uses temperature, teacher and queues as they are: the
  // clamp, the teacher's update and the queues' belong to the caller (design §4). `alpha` is the
  // weight of the teacher's targets. Negatives that are not given are drawn from the device's
  // default generator (one batched draw for images, then one for texts). Never waits for the
  // device.
  PretrainOutput Forward(const PretrainInputs& inputs, double alpha,
                         PretrainTrace* trace = nullptr);

  // For evaluation, with eval() and without gradients (the caller's choice).
  ImageEncoding EncodeImage(const torch::Tensor& image_BCHW);
  TextEncoding EncodeText(const torch::Tensor& ids_BT, const torch::Tensor& mask_BT);
  std::vector<KeyValue> ProjectImage(const torch::Tensor& image_embeds_BPD);

  // Scores (no match, match) of texts with images given by ProjectImage: text r with image r mod
  // the number of images. So many texts with one image, or pairs.
  torch::Tensor MatchLogits(std::span<const KeyValue> images, const torch::Tensor& text_embeds_RTD,
                            const torch::Tensor& mask_RT);

  // From now on the encoders, student and teacher, multiply with shadows of their parameters, in
  // bf16. The residual stream, LayerNorms, softmax, what projects onto features and matching
  // scores, and all losses stay in the dtype of the parameters. Call it when these have reached
  // their final place.
  void BindShadows(const ShadowSource& shadow_of);

  // The teacher follows, except that its dropout obeys options().teacher_dropout.
  void train(bool on = true) override;

  const AlbefOptions& options() const { return options_; }

  torch::Tensor temperature;
  torch::Tensor image_queue_EQ;
  torch::Tensor text_queue_EQ;
  torch::Tensor queue_ptr;  // (1,) int64; here for the state dict, not read by Forward

 private:
  struct Teacher {
    torch::Tensor image_embeds_BPD;
    torch::Tensor image_feat_BE;
    torch::Tensor text_feat_BE;
    torch::Tensor mlm_logits_NV;  // undefined when nothing uses them
  };
  Teacher RunTeacher(const PretrainInputs& inputs, double alpha);

  AlbefOptions options_;
  VisionTransformer visual_encoder_ = nullptr;
  BertForMaskedLM text_encoder_ = nullptr;
  Linear vision_proj_ = nullptr;
  Linear text_proj_ = nullptr;
  Linear itm_head_ = nullptr;
  VisionTransformer visual_encoder_m_ = nullptr;
  Linear vision_proj_m_ = nullptr;
  BertForMaskedLM text_encoder_m_ = nullptr;
  Linear text_proj_m_ = nullptr;
};
TORCH_MODULE(Albef);

}  // namespace albef

#endif  // ALBEF_MODEL_ALBEF_H_
