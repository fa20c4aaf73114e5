// ViT image encoder, pre-norm, with a [CLS] token (spec §1.2). Parameter names are the authors'.
#ifndef ALBEF_MODEL_VISION_TRANSFORMER_H_
#define ALBEF_MODEL_VISION_TRANSFORMER_H_

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include "model/layers.h"
#include "model/mixed_linear.h"
#include "model/options.h"

namespace albef {

// Cuts an image into patches and projects each. The parameters have the shape of the convolution
// they stem from; for disjoint patches that is one matrix product.
class PatchProjectionImpl : public torch::nn::Module, public ShadowReader {
 public:
  explicit PatchProjectionImpl(const VisionOptions& options);
  // (B, patches row by row, D), in the dtype of the parameters.
  torch::Tensor forward(const torch::Tensor& image_BCHW);
  void BindShadows(const ShadowSource& shadow_of) override;

 private:
  torch::Tensor weight_;  // (D, 3, patch, patch)
  torch::Tensor bias_;
  LinearShadow shadow_;
};
TORCH_MODULE(PatchProjection);

class VisionAttentionImpl : public torch::nn::Module {
 public:
  explicit VisionAttentionImpl(const VisionOptions& options);
  torch::Tensor forward(const torch::Tensor& x_BPD);

 private:
  int64_t heads_;
  Linear qkv_ = nullptr;
  Linear proj_ = nullptr;
};
TORCH_MODULE(VisionAttention);

class VisionMlpImpl : public torch::nn::Module {
 public:
  explicit VisionMlpImpl(const VisionOptions& options);
  torch::Tensor forward(const torch::Tensor& x_BPD);

 private:
  Linear fc1_ = nullptr;
  Linear fc2_ = nullptr;
};
TORCH_MODULE(VisionMlp);

class VisionBlockImpl : public torch::nn::Module {
 public:
  explicit VisionBlockImpl(const VisionOptions& options);
  torch::Tensor forward(const torch::Tensor& x_BPD);

 private:
  LayerNorm norm1_ = nullptr;
  VisionAttention attn_ = nullptr;
  LayerNorm norm2_ = nullptr;
  VisionMlp mlp_ = nullptr;
};
TORCH_MODULE(VisionBlock);

// Has no dropout, so training and evaluation are the same.
class VisionTransformerImpl : public torch::nn::Module {
 public:
  explicit VisionTransformerImpl(const VisionOptions& options);

  // Normalised pixels (B, 3, image_res, image_res) → (B, P, D) after the last LayerNorm; token 0 is
  // [CLS].
  torch::Tensor forward(const torch::Tensor& image_BCHW);

 private:
  VisionOptions options_;
  torch::Tensor cls_token_;
  torch::Tensor pos_embed_;
  PatchProjection patch_projection_ = nullptr;
  torch::nn::ModuleList blocks_;
  LayerNorm norm_ = nullptr;
};
TORCH_MODULE(VisionTransformer);

}  // namespace albef

#endif  // ALBEF_MODEL_VISION_TRANSFORMER_H_
