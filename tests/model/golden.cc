#include "tests/model/golden.h"

#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <stdexcept>

#include "formats/safetensors.h"
#include "model/tensor_io.h"

namespace albef::golden {
namespace {

[[noreturn]] void Fail(const std::string& message) { throw std::runtime_error(message); }

// The first name of a tied tensor that the authors' state dict repeats; empty for all others.
std::string FirstOfTied(const std::string& name) {
  const std::string decoder = ".cls.predictions.decoder.";
  const size_t place = name.find(decoder);
  if (place == std::string::npos) return "";
  const std::string encoder = name.substr(0, place);
  return name.ends_with(".weight") ? encoder + ".bert.embeddings.word_embeddings.weight"
                                   : encoder + ".cls.predictions.bias";
}

::testing::AssertionResult Close(const torch::Tensor& actual, const torch::Tensor& expected,
                                 double tolerance, bool relative) {
  if (!actual.defined()) return ::testing::AssertionFailure() << "the actual tensor is undefined";
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure()
           << "shapes differ: got " << actual.sizes() << ", expected " << expected.sizes();
  }
  if (expected.numel() == 0) return ::testing::AssertionSuccess();
  const torch::Tensor actual_flat = actual.detach().to(at::kCPU, at::kDouble).flatten();
  const torch::Tensor expected_flat = expected.to(at::kDouble).flatten();
  const torch::Tensor difference = (actual_flat - expected_flat).abs();
  const double scale = relative ? expected_flat.abs().max().item<double>() : 1;
  const double largest = difference.max().item<double>();
  // NaN must fail.
  if (largest <= tolerance * scale) return ::testing::AssertionSuccess();
  const int64_t place = difference.argmax().item<int64_t>();
  return ::testing::AssertionFailure() << fmt::format(
             "largest {} difference {:.3g} exceeds {:.3g}, at flat index {} of {}: got {:.17g}, "
             "expected {:.17g}",
             relative ? "relative" : "absolute", largest / scale, tolerance, place,
             expected.numel(), actual_flat[place].item<double>(),
             expected_flat[place].item<double>());
}

}  // namespace

std::filesystem::path Root() {
  const char* root = std::getenv("ALBEF_GOLDENS");
  return root != nullptr ? root : "tests/golden";
}

torch::Device TestDevice() {
  const char* name = std::getenv("ALBEF_TEST_DEVICE");
  const torch::Device device(name != nullptr ? name : "cpu");
  if (device.is_cuda() && !torch::cuda::is_available()) {
    Fail(fmt::format("ALBEF_TEST_DEVICE={}: this build has no CUDA, or the machine no GPU", name));
  }
  return device;
}

nlohmann::json ReadJson(const std::string& name, const std::string& folder) {
  const std::filesystem::path path = Root() / folder / (name + ".json");
  std::ifstream file(path);
  if (!file) Fail(fmt::format("{}: cannot be opened", path.string()));
  return nlohmann::json::parse(file);
}

TensorMap ReadTensors(const std::string& name, const std::string& folder) {
  const absl::StatusOr<SafetensorsFile> file =
      SafetensorsFile::Open(Root() / folder / (name + ".safetensors"));
  if (!file.ok()) Fail(file.status().ToString());
  TensorMap tensors;
  for (const NamedTensor& named : file->tensors()) {
    tensors.emplace(named.name, CopyTensor(named.tensor));
  }
  return tensors;
}

AlbefOptions ToOptions(const nlohmann::json& config) {
  AlbefOptions options;
  options.vision.image_res = config.at("image_res");
  options.vision.patch_size = config.at("patch_size");
  options.vision.width = config.at("vision_width");
  options.vision.depth = config.at("vision_depth");
  options.vision.heads = config.at("vision_heads");
  options.vision.mlp_ratio = config.at("vision_mlp_ratio");
  options.vision.layer_norm_eps = config.at("vision_ln_eps");
  const nlohmann::json& bert = config.at("bert");
  options.bert.vocab_size = bert.at("vocab_size");
  options.bert.hidden_size = bert.at("hidden_size");
  options.bert.num_hidden_layers = bert.at("num_hidden_layers");
  options.bert.num_attention_heads = bert.at("num_attention_heads");
  options.bert.intermediate_size = bert.at("intermediate_size");
  options.bert.max_position_embeddings = bert.at("max_position_embeddings");
  options.bert.type_vocab_size = bert.at("type_vocab_size");
  options.bert.fusion_layer = bert.at("fusion_layer");
  options.bert.encoder_width = bert.at("encoder_width");
  options.bert.layer_norm_eps = bert.at("layer_norm_eps");
  options.bert.hidden_dropout_prob = bert.at("hidden_dropout_prob");
  options.bert.attention_probs_dropout_prob = bert.at("attention_probs_dropout_prob");
  options.bert.initializer_range = bert.at("initializer_range");
  options.bert.pad_token_id = bert.at("pad_token_id");
  options.embed_dim = config.at("embed_dim");
  options.queue_size = config.at("queue_size");
  options.temperature = config.at("temp");
  return options;
}

void LoadState(AlbefImpl& model, const TensorMap& state) {
  const torch::NoGradGuard no_grad;
  std::set<std::string> loaded;
  const auto load = [&](const auto& named_tensors) {
    for (const auto& item : named_tensors) {
      const auto found = state.find(item.key());
      if (found == state.end()) Fail(fmt::format("{}: not in the fixture", item.key()));
      TORCH_CHECK(found->second.sizes() == item.value().sizes(), item.key(), ": the fixture has ",
                  found->second.sizes(), ", the model ", item.value().sizes());
      torch::Tensor(item.value()).copy_(found->second);
      loaded.insert(item.key());
    }
  };
  load(model.named_parameters());
  load(model.named_buffers());
  for (const auto& [name, tensor] : state) {
    if (loaded.contains(name)) continue;
    const std::string first = FirstOfTied(name);
    if (first.empty()) Fail(fmt::format("{}: not in the model", name));
    if (!tensor.equal(state.at(first))) Fail(fmt::format("{} differs from {}", name, first));
  }
}

Albef MakeModel(const nlohmann::json& config, const TensorMap& state, at::TensorOptions options) {
  Albef model(ToOptions(config));
  model->to(options.device(), options.dtype().toScalarType());
  LoadState(*model, state);
  return model;
}

PretrainInputs ToInputs(const TensorMap& tensors, const std::string& prefix,
                        const torch::Tensor& image_BCHW, at::TensorOptions options) {
  const torch::Tensor labels = tensors.at(prefix + "mlm_labels").flatten();
  const torch::Tensor masked_index_N = at::nonzero(labels != -100).flatten();
  return {.image_BCHW = image_BCHW.to(options),
          .input_ids_BT = tensors.at(prefix + "input_ids").to(options.device()),
          .attention_mask_BT = tensors.at(prefix + "attention_mask").to(options.device()),
          .mlm_input_ids_BT = tensors.at(prefix + "mlm_input_ids").to(options.device()),
          .masked_index_N = masked_index_N.to(options.device()),
          .masked_label_N = labels.index_select(0, masked_index_N).to(options.device()),
          .negatives = NegativeIndices{
              .image_B = tensors.at(prefix + "itm_image_neg_idx").to(options.device()),
              .text_B = tensors.at(prefix + "itm_text_neg_idx").to(options.device())}};
}

::testing::AssertionResult RelClose(const torch::Tensor& actual, const torch::Tensor& expected,
                                    double tolerance) {
  return Close(actual, expected, tolerance, /*relative=*/true);
}

::testing::AssertionResult AbsClose(const torch::Tensor& actual, const torch::Tensor& expected,
                                    double tolerance) {
  return Close(actual, expected, tolerance, /*relative=*/false);
}

}  // namespace albef::golden
