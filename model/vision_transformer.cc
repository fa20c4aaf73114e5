#include "model/vision_transformer.h"

#include <ATen/record_function.h>

#include "model/activation_checkpointing.h"
#include "model/attention.h"

namespace albef {

PatchProjectionImpl::PatchProjectionImpl(const VisionOptions& options) {
  const int64_t patch = options.patch_size;
  weight_ = register_parameter("weight", torch::zeros({options.width, 3, patch, patch}));
  bias_ = register_parameter("bias", torch::zeros({options.width}));
}

torch::Tensor PatchProjectionImpl::forward(const torch::Tensor& image_BCHW) {
  const int64_t patch = weight_.size(2);
  const int64_t batch = image_BCHW.size(0);
  const int64_t rows = image_BCHW.size(2) / patch;
  const int64_t columns = image_BCHW.size(3) / patch;
  const torch::Tensor patches = image_BCHW.reshape({batch, 3, rows, patch, columns, patch})
                                    .permute({0, 2, 4, 1, 3, 5})
                                    .reshape({batch, rows * columns, 3 * patch * patch});
  return MixedLinear(patches, weight_.flatten(1), bias_, shadow_, weight_.scalar_type());
}

void PatchProjectionImpl::BindShadows(const ShadowSource& shadow_of) {
  shadow_ = {.weight_NK = shadow_of(weight_).flatten(1), .bias_N = shadow_of(bias_)};
}

VisionAttentionImpl::VisionAttentionImpl(const VisionOptions& options) : heads_(options.heads) {
  qkv_ = register_module("qkv", Linear(options.width, 3 * options.width));
  proj_ = register_module("proj", Linear(options.width, options.width));
}

torch::Tensor VisionAttentionImpl::forward(const torch::Tensor& x_BPD) {
  return proj_(SelfAttention(qkv_(x_BPD), heads_));
}

VisionMlpImpl::VisionMlpImpl(const VisionOptions& options) {
  const int64_t inner = options.width * options.mlp_ratio;
  fc1_ = register_module("fc1", Linear(options.width, inner));
  fc2_ = register_module("fc2", Linear(inner, options.width));
}

torch::Tensor VisionMlpImpl::forward(const torch::Tensor& x_BPD) {
  return fc2_(fc1_->ForwardGelu(x_BPD));
}

VisionBlockImpl::VisionBlockImpl(const VisionOptions& options) {
  norm1_ = register_module("norm1", LayerNorm(options.width, options.layer_norm_eps));
  attn_ = register_module("attn", VisionAttention(options));
  norm2_ = register_module("norm2", LayerNorm(options.width, options.layer_norm_eps));
  mlp_ = register_module("mlp", VisionMlp(options));
}

torch::Tensor VisionBlockImpl::forward(const torch::Tensor& x_BPD) {
  const torch::Tensor attended_BPD = x_BPD + attn_(norm1_(x_BPD));
  return attended_BPD + mlp_(norm2_(attended_BPD));
}

VisionTransformerImpl::VisionTransformerImpl(const VisionOptions& options) : options_(options) {
  cls_token_ = register_parameter("cls_token", torch::zeros({1, 1, options.width}));
  pos_embed_ =
      register_parameter("pos_embed", torch::zeros({1, options.num_tokens(), options.width}));
  auto patch_embed = register_module("patch_embed", std::make_shared<torch::nn::Module>());
  patch_projection_ = patch_embed->register_module("proj", PatchProjection(options));
  blocks_ = register_module("blocks", torch::nn::ModuleList());
  for (int64_t i = 0; i < options.depth; ++i) blocks_->push_back(VisionBlock(options));
  norm_ = register_module("norm", LayerNorm(options.width, options.layer_norm_eps));
}

torch::Tensor VisionTransformerImpl::forward(const torch::Tensor& image_BCHW) {
  RECORD_USER_SCOPE("image encoder");
  const int64_t res = options_.image_res;
  TORCH_CHECK(image_BCHW.dim() == 4 && image_BCHW.size(1) == 3 && image_BCHW.size(2) == res &&
                  image_BCHW.size(3) == res,
              "image: expected (B, 3, ", res, ", ", res, "), got ", image_BCHW.sizes());
  const torch::Tensor patches_BPD = patch_projection_(image_BCHW);
  const torch::Tensor cls_B1D = cls_token_.expand({image_BCHW.size(0), -1, -1});
  torch::Tensor x_BPD = at::cat({cls_B1D, patches_BPD}, 1) + pos_embed_;
  for (const auto& block : *blocks_) {
    x_BPD = RunBlock(options_.activation_checkpointing, {x_BPD},
                     [block](const std::vector<torch::Tensor>& inputs) {
                       return block->as<VisionBlock>()->forward(inputs[0]);
                     });
  }
  return norm_(x_BPD);
}

}  // namespace albef
