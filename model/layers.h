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

namespace albef {

class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out);
  torch::Tensor forward(const torch::Tensor& x) { return at::linear(x, weight, bias); }

  torch::Tensor weight;  // (out, in)
  torch::Tensor bias;
};
TORCH_MODULE(Linear);

class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t width, double eps);
  torch::Tensor forward(const torch::Tensor& x) {
    return at::layer_norm(x, weight.sizes(), weight, bias, eps_);
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
