#include "model/albef.h"

#include <ATen/record_function.h>
#include <torch/nn/functional/normalization.h>
#include <torch/utils.h>

#include "model/losses.h"

namespace albef {
namespace {

torch::Tensor Normalize(const torch::Tensor& x_BE) {
  return torch::nn::functional::normalize(
      x_BE, torch::nn::functional::NormalizeFuncOptions().dim(1).eps(1e-12));
}

torch::Tensor Cls(const torch::Tensor& x_BTD) { return x_BTD.select(1, 0); }

void CheckInputs(const PretrainInputs& inputs) {
  const auto text_shape = inputs.input_ids_BT.sizes();
  TORCH_CHECK(text_shape.size() == 2 && inputs.attention_mask_BT.sizes() == text_shape &&
                  inputs.mlm_input_ids_BT.sizes() == text_shape,
              "input ids, attention mask and masked ids: expected equal shapes (B, T), got ",
              text_shape, ", ", inputs.attention_mask_BT.sizes(), ", ",
              inputs.mlm_input_ids_BT.sizes());
  TORCH_CHECK(inputs.image_BCHW.size(0) == text_shape[0], inputs.image_BCHW.size(0), " images for ",
              text_shape[0], " texts");
  TORCH_CHECK(inputs.masked_index_N.dim() == 1 &&
                  inputs.masked_index_N.sizes() == inputs.masked_label_N.sizes(),
              "masked index and label: expected equal shapes (N), got ",
              inputs.masked_index_N.sizes(), " and ", inputs.masked_label_N.sizes());
}

// In-batch probabilities with the diagonal set to 0.
torch::Tensor NegativeWeights(const torch::Tensor& scores_BB) {
  torch::Tensor weights_BB = at::softmax(scores_BB, 1);
  weights_BB.diagonal().zero_();
  return weights_BB;
}

torch::Tensor Targets(const torch::Tensor& teacher_scores_BC, double alpha) {
  if (!teacher_scores_BC.defined()) return {};
  torch::Tensor targets_BC = at::softmax(teacher_scores_BC, 1) * alpha;
  targets_BC.diagonal().add_(1 - alpha);
  return targets_BC;
}

}  // namespace

AlbefImpl::AlbefImpl(const AlbefOptions& options) : options_(options) {
  const absl::Status valid = Validate(options);
  TORCH_CHECK(valid.ok(), std::string(valid.message()));
  const int64_t embed = options.embed_dim;
  temperature = register_parameter("temp", torch::full({}, options.temperature));
  image_queue_EQ = register_buffer("image_queue", torch::zeros({embed, options.queue_size}));
  text_queue_EQ = register_buffer("text_queue", torch::zeros({embed, options.queue_size}));
  queue_ptr = register_buffer("queue_ptr", torch::zeros({1}, at::kLong));

  const int64_t vision_width = options.vision.width;
  const int64_t text_width = options.bert.hidden_size;
  visual_encoder_ = register_module("visual_encoder", VisionTransformer(options.vision));
  text_encoder_ = register_module("text_encoder", BertForMaskedLM(options.bert));
  vision_proj_ = register_module("vision_proj", Linear(vision_width, embed));
  text_proj_ = register_module("text_proj", Linear(text_width, embed));
  itm_head_ = register_module("itm_head", Linear(text_width, 2));

  visual_encoder_m_ = register_module("visual_encoder_m", VisionTransformer(options.vision));
  vision_proj_m_ = register_module("vision_proj_m", Linear(vision_width, embed));
  text_encoder_m_ = register_module("text_encoder_m", BertForMaskedLM(options.bert));
  text_proj_m_ = register_module("text_proj_m", Linear(text_width, embed));
  for (const torch::nn::Module* teacher : std::initializer_list<const torch::nn::Module*>{
           visual_encoder_m_.get(), vision_proj_m_.get(), text_encoder_m_.get(),
           text_proj_m_.get()}) {
    for (torch::Tensor& parameter : teacher->parameters()) parameter.set_requires_grad(false);
  }
  AlbefImpl::train(true);
}

void AlbefImpl::train(bool on) {
  Module::train(on);
  text_encoder_m_->train(on && options_.teacher_dropout);
}

void AlbefImpl::BindShadows(const ShadowSource& shadow_of) {
  for (const torch::nn::Module* encoder : std::initializer_list<const torch::nn::Module*>{
           visual_encoder_.get(), text_encoder_.get(), visual_encoder_m_.get(),
           text_encoder_m_.get()}) {
    for (const std::shared_ptr<torch::nn::Module>& module : encoder->modules()) {
      if (auto* reader = dynamic_cast<ShadowReader*>(module.get())) reader->BindShadows(shadow_of);
    }
  }
}

AlbefImpl::Teacher AlbefImpl::RunTeacher(const PretrainInputs& inputs, double alpha) {
  RECORD_USER_SCOPE("teacher");
  const torch::NoGradGuard no_grad;
  Teacher teacher;
  teacher.image_embeds_BPD = visual_encoder_m_(inputs.image_BCHW);
  teacher.image_feat_BE = Normalize(vision_proj_m_(Cls(teacher.image_embeds_BPD)));

  BertModelImpl& bert = text_encoder_m_->bert();
  const int64_t batch = inputs.input_ids_BT.size(0);
  if (alpha == 0 || inputs.masked_index_N.size(0) == 0) {
    const TextOutput text = bert.EncodeText(inputs.input_ids_BT, inputs.attention_mask_BT, batch);
    teacher.text_feat_BE = Normalize(text_proj_m_(text.cls_RD));
    return teacher;
  }
  const TextOutput text = bert.EncodeText(at::cat({inputs.input_ids_BT, inputs.mlm_input_ids_BT}),
                                          inputs.attention_mask_BT.repeat({2, 1}), batch);
  teacher.text_feat_BE = Normalize(text_proj_m_(text.cls_RD));
  const FusionOutput fused = bert.Fuse({.token_BTD = text.hidden_RTD,
                                        .token_mask_BT = inputs.attention_mask_BT,
                                        .token_index_N = inputs.masked_index_N},
                                       bert.ProjectImage(teacher.image_embeds_BPD));
  teacher.mlm_logits_NV = text_encoder_m_->Predict(fused.token_ND);
  return teacher;
}

PretrainOutput AlbefImpl::Forward(const PretrainInputs& inputs, double alpha,
                                  PretrainTrace* trace) {
  // For profilers: what stands in no part's scope.
  RECORD_USER_SCOPE("heads and losses");
  CheckInputs(inputs);
  const int64_t batch = inputs.input_ids_BT.size(0);
  const Teacher teacher = RunTeacher(inputs, alpha);

  const torch::Tensor image_embeds_BPD = visual_encoder_(inputs.image_BCHW);
  const torch::Tensor image_feat_BE = Normalize(vision_proj_(Cls(image_embeds_BPD)));
  // The plain and the masked text share one pass.
  BertModelImpl& bert = text_encoder_->bert();
  const torch::Tensor hidden_RTD =
      bert.EncodeText(at::cat({inputs.input_ids_BT, inputs.mlm_input_ids_BT}),
                      inputs.attention_mask_BT.repeat({2, 1}))
          .hidden_RTD;
  const torch::Tensor text_embeds_BTD = hidden_RTD.narrow(0, 0, batch);
  const torch::Tensor text_feat_BE = Normalize(text_proj_(Cls(text_embeds_BTD)));

  ContrastiveScores i2t;
  ContrastiveScores t2i;
  const torch::Tensor loss_i2t = ContrastiveLoss({.query_BE = image_feat_BE,
                                                  .teacher_query_BE = teacher.image_feat_BE,
                                                  .key_BE = teacher.text_feat_BE,
                                                  .queue_EQ = text_queue_EQ,
                                                  .temperature = temperature,
                                                  .alpha = alpha},
                                                 i2t);
  const torch::Tensor loss_t2i = ContrastiveLoss({.query_BE = text_feat_BE,
                                                  .teacher_query_BE = teacher.text_feat_BE,
                                                  .key_BE = teacher.image_feat_BE,
                                                  .queue_EQ = image_queue_EQ,
                                                  .temperature = temperature,
                                                  .alpha = alpha},
                                                 t2i);

  const torch::Tensor scores_i2t_BB = i2t.student_BC.narrow(1, 0, batch);
  const torch::Tensor scores_t2i_BB = t2i.student_BC.narrow(1, 0, batch);
  NegativeIndices negative;
  if (inputs.negatives) {
    negative = *inputs.negatives;
  } else {
    negative.image_B = DrawHardNegatives(scores_t2i_BB);
    negative.text_B = DrawHardNegatives(scores_i2t_BB);
  }

  const torch::Tensor& mask_BT = inputs.attention_mask_BT;
  const FusionOutput fused = bert.Fuse(
      {.token_BTD = hidden_RTD.narrow(0, batch, batch),
       .token_mask_BT = mask_BT,
       .token_index_N = inputs.masked_index_N,
       .match_RTD = at::cat({text_embeds_BTD, text_embeds_BTD.index_select(0, negative.text_B)}),
       .match_mask_RT = at::cat({mask_BT, mask_BT.index_select(0, negative.text_B)}),
       .gathered_STD = text_embeds_BTD,
       .gathered_mask_ST = mask_BT,
       .gather_index_S = negative.image_B},
      bert.ProjectImage(image_embeds_BPD));

  const torch::Tensor itm_cls_RD = at::cat({fused.match_RD.narrow(0, 0, batch), fused.gathered_SD,
                                            fused.match_RD.narrow(0, batch, batch)});
  const torch::Tensor itm_logits_R2 = itm_head_(itm_cls_RD);
  torch::Tensor itm_labels_R = torch::zeros({3 * batch}, inputs.input_ids_BT.options());
  itm_labels_R.narrow(0, 0, batch).fill_(1);

  const torch::Tensor mlm_logits_NV = text_encoder_->Predict(fused.token_ND);

  PretrainOutput output;
  output.loss_mlm =
      SoftHardCrossEntropy(mlm_logits_NV, teacher.mlm_logits_NV, inputs.masked_label_N,
                           teacher.mlm_logits_NV.defined() ? alpha : 0);
  output.loss_itc = (loss_i2t + loss_t2i) / 2;
  output.loss_itm = at::cross_entropy_loss(itm_logits_R2, itm_labels_R);
  output.image_feat_m_BE = teacher.image_feat_BE;
  output.text_feat_m_BE = teacher.text_feat_BE;

  if (trace != nullptr) {
    *trace = {.image_embeds_BPD = image_embeds_BPD,
              .text_embeds_BTD = text_embeds_BTD,
              .image_feat_BE = image_feat_BE,
              .text_feat_BE = text_feat_BE,
              .image_embeds_m_BPD = teacher.image_embeds_BPD,
              .sim_i2t_BC = i2t.student_BC,
              .sim_t2i_BC = t2i.student_BC,
              .sim_i2t_m_BC = i2t.teacher_BC,
              .sim_t2i_m_BC = t2i.teacher_BC,
              .sim_i2t_targets_BC = Targets(i2t.teacher_BC, alpha),
              .sim_t2i_targets_BC = Targets(t2i.teacher_BC, alpha),
              .itm_weights_i2t_BB = NegativeWeights(scores_i2t_BB),
              .itm_weights_t2i_BB = NegativeWeights(scores_t2i_BB),
              .itm_cls_RD = itm_cls_RD,
              .itm_logits_R2 = itm_logits_R2,
              .itm_labels_R = itm_labels_R,
              .mlm_logits_NV = mlm_logits_NV,
              .mlm_logits_m_NV = teacher.mlm_logits_NV,
              .negatives = negative};
  }
  return output;
}

ImageEncoding AlbefImpl::EncodeImage(const torch::Tensor& image_BCHW) {
  ImageEncoding image;
  image.embeds_BPD = visual_encoder_(image_BCHW);
  image.feat_BE = Normalize(vision_proj_(Cls(image.embeds_BPD)));
  return image;
}

TextEncoding AlbefImpl::EncodeText(const torch::Tensor& ids_BT, const torch::Tensor& mask_BT) {
  TextEncoding text;
  text.embeds_BTD = text_encoder_->bert().EncodeText(ids_BT, mask_BT).hidden_RTD;
  text.feat_BE = Normalize(text_proj_(Cls(text.embeds_BTD)));
  return text;
}

std::vector<KeyValue> AlbefImpl::ProjectImage(const torch::Tensor& image_embeds_BPD) {
  return text_encoder_->bert().ProjectImage(image_embeds_BPD);
}

torch::Tensor AlbefImpl::MatchLogits(std::span<const KeyValue> images,
                                     const torch::Tensor& text_embeds_RTD,
                                     const torch::Tensor& mask_RT) {
  return itm_head_(text_encoder_->bert()
                       .Fuse({.match_RTD = text_embeds_RTD, .match_mask_RT = mask_RT}, images)
                       .match_RD);
}

}  // namespace albef
