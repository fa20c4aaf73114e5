// Pretrained weights for a new run: the files the authors start from, and whole models (spec §1.2,
// 1.3, 1.4).
#ifndef ALBEF_MODEL_PRETRAINED_H_
#define ALBEF_MODEL_PRETRAINED_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config.h"
#include "model/albef.h"
#include "model/state_dict.h"

namespace albef {

// DeiT or another ViT of timm's names into the student's image encoder: a state dict, alone or
// under "model". Position embeddings are resized, `head.*` ignored; every weight of the encoder
// must be there. Errors name file, key, what was expected and found, and the config key that
// decides.
absl::StatusOr<LoadReport> LoadVisualEncoder(AlbefImpl& model, const std::filesystem::path& path);

// BERT into the student's text encoder: names `bert.*` and `cls.*`, or those of a bare BertModel;
// LayerNorms also as gamma and beta. Pooler and next-sentence head are ignored. Cross-attention is
// in no such file and stays as it is, and so does a masked-language head that is not there.
absl::StatusOr<LoadReport> LoadTextEncoder(AlbefImpl& model, const std::filesystem::path& path);

// All weights, teacher, queues and their pointer from a checkpoint of the authors' or a state of
// ours in one file; position embeddings are resized, optimizer and counters ignored.
absl::StatusOr<LoadReport> LoadWholeModel(AlbefImpl& model, const std::filesystem::path& path);

struct InitializationStep {
  std::string what;  // "visual_encoder", "text_encoder" or "checkpoint"
  std::filesystem::path path;
  LoadReport report;
};

// The first values of a new run: random ones, then what `init` names, then the teacher as a copy of
// the student (with a checkpoint: from there). Returns what was loaded.
absl::StatusOr<std::vector<InitializationStep>> InitializeModel(AlbefImpl& model,
                                                                const RunConfig::Init& init,
                                                                uint64_t seed);

}  // namespace albef

#endif  // ALBEF_MODEL_PRETRAINED_H_
