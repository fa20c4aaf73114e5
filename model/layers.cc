#include "model/layers.h"

#include "model/linear_gelu.h"

namespace albef {

LinearImpl::LinearImpl(int64_t in, int64_t out) {
  weight = register_parameter("weight", torch::zeros({out, in}));
  bias = register_parameter("bias", torch::zeros({out}));
}

torch::Tensor LinearImpl::ForwardGelu(const torch::Tensor& x) {
  return shadow_.weight_NK.defined() ? MixedLinearGelu(x, weight, bias, shadow_)
                                     : LinearGelu(x, weight, bias);
}

void LinearImpl::BindShadows(const ShadowSource& shadow_of) {
  shadow_ = {.weight_NK = shadow_of(weight), .bias_N = shadow_of(bias)};
}

LayerNormImpl::LayerNormImpl(int64_t width, double eps) : eps_(eps) {
  weight = register_parameter("weight", torch::ones({width}));
  bias = register_parameter("bias", torch::zeros({width}));
}

EmbeddingImpl::EmbeddingImpl(int64_t count, int64_t width) {
  weight = register_parameter("weight", torch::zeros({count, width}));
}

}  // namespace albef
