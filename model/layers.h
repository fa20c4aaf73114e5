// The three parameterised layers the networks are made of.
//
// Not torch::nn's: those draw random weights on construction, which for the full-size model takes
// seconds and is overwritten at once by an initialisation, an import or a checkpoint. Here weights
// start as zeros (LayerNorm weights as ones), so that construction is quick and repeatable.
#ifndef ALBEF_MODEL_LAYERS_H_
#define ALBEF_MODEL_LAYERS_H_

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "model/mixed_linear.h"

namespace albef {

// With shadows its results are bf16.
class LinearImpl : public torch::nn::Module, public ShadowReader {
 public:
  LinearImpl(int64_t in, int64_t out);
  torch::Tensor forward(const torch::Tensor& x) {
    return MixedLinear(x, weight, bias, shadow_, at::kBFloat16);
  }
  // GELU of what forward() gives.
  torch::Tensor ForwardGelu(const torch::Tensor& x);
  void BindShadows(const ShadowSource& shadow_of) override;

  torch::Tensor weight;  // (out, in)
  torch::Tensor bias;

 private:
  LinearShadow shadow_;
};
TORCH_MODULE(Linear);

// In the dtype of its parameters, whatever it is given.
class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t width, double eps);
  torch::Tensor forward(const torch::Tensor& x) {
    return at::layer_norm(x.to(weight.scalar_type()), weight.sizes(), weight, bias, eps_);
  }

  torch::Tensor weight;
  torch::Tensor bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

class EmbeddingImpl : public torch::nn::Module {
 public:
  EmbeddingImpl(int64_t count, int64_t width);

  torch::Tensor weight;  // (count, width)
};
TORCH_MODULE(Embedding);

}  // namespace albef

#endif  // ALBEF_MODEL_LAYERS_H_
