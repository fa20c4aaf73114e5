// Fixtures of tests/golden: reading, loading into a model, comparing.
//
// A fixture that cannot be read throws, which GoogleTest reports as a failure of the test.
#ifndef ALBEF_TESTS_MODEL_GOLDEN_H_
#define ALBEF_TESTS_MODEL_GOLDEN_H_

#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "model/albef.h"
#include "model/options.h"

namespace albef::golden {

using TensorMap = std::map<std::string, torch::Tensor, std::less<>>;

// $ALBEF_GOLDENS, else tests/golden below the source root.
std::filesystem::path Root();

// $ALBEF_TEST_DEVICE, else the CPU. Where there is no such device the test that asks throws.
torch::Device TestDevice();

// Root()/FOLDER/NAME.json and NAME.safetensors.
nlohmann::json ReadJson(const std::string& name, const std::string& folder = "pretrain");
TensorMap ReadTensors(const std::string& name, const std::string& folder = "pretrain");

// From the member `config` of a case.
AlbefOptions ToOptions(const nlohmann::json& config);

// Copies a state dict with the authors' names into the model. Fails unless names, shapes and tied
// duplicates agree completely.
void LoadState(AlbefImpl& model, const TensorMap& state);

// A model of the case's sizes with its initial state, in training mode.
Albef MakeModel(const nlohmann::json& config, const TensorMap& state, at::TensorOptions options);

// The batch of a case whose tensors carry `prefix`, with its draws.
PretrainInputs ToInputs(const TensorMap& tensors, const std::string& prefix,
                        const torch::Tensor& image_BCHW, at::TensorOptions options);

// "rel" of the fixtures' README: max |actual − expected| ≤ tolerance · max |expected|. Shapes must
// agree. A failure says where the largest difference is.
::testing::AssertionResult RelClose(const torch::Tensor& actual, const torch::Tensor& expected,
                                    double tolerance);

// max |actual − expected| ≤ tolerance.
::testing::AssertionResult AbsClose(const torch::Tensor& actual, const torch::Tensor& expected,
                                    double tolerance);

}  // namespace albef::golden

#endif  // ALBEF_TESTS_MODEL_GOLDEN_H_
