// What a configuration says about data, loaded: vocabulary, training pairs, evaluation set.
#ifndef ALBEF_DATALOADER_DATASET_H_
#define ALBEF_DATALOADER_DATASET_H_

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "common/config.h"
#include "dataloader/batch_stream.h"
#include "dataloader/eval_set.h"
#include "dataloader/image.h"
#include "dataloader/index_store.h"
#include "dataloader/sample_order.h"
#include "dataloader/sample_source.h"
#include "dataloader/wordpiece.h"

namespace albef {

struct Dataset {
  std::shared_ptr<const WordPieceTokenizer> tokenizer;
  std::shared_ptr<const SampleSource> train;
  std::optional<EvalSet> eval;

  // Reads the vocabulary and opens the indices of the annotations, making them where they are
  // missing; no images yet. Sets config.bert_config.vocab_size where it is `auto`. Indices that can
  // lie neither in data.index_dir nor beside their files go to `index_fallback`.
  static absl::StatusOr<Dataset> Load(
      RunConfig& config, std::optional<std::filesystem::path> index_fallback = std::nullopt);
};

// INVALID_ARGUMENT where tokenizer.vocab is missing or its size is not bert_config.vocab_size.
absl::StatusOr<std::shared_ptr<const WordPieceTokenizer>> LoadTokenizer(const RunConfig& config);

ImageCompat AugmentCompat(const RunConfig& config);

// How `config` wants annotations indexed; the caller adds a fallback and who is notified.
IndexOptions IndexingOf(const RunConfig& config);

// An absent virtual_ranks counts as one.
absl::StatusOr<EpochPlan> PlanEpochs(const RunConfig& config, int64_t num_samples);

struct BatchRequest {
  std::shared_ptr<const SampleSource> source;
  std::shared_ptr<const WordPieceTokenizer> tokenizer;
  std::optional<EpochPlan> plan;  // required
  int virtual_rank_begin = 0;
  std::optional<int> virtual_rank_end;  // exclusive; absent: all
  int64_t start_iteration = 0;
  std::optional<std::vector<int64_t>> first_virtual_ranks;  // of the first iteration; absent: all
  std::optional<int64_t> end_iteration;
  std::function<void(const BadSample&)> on_bad_sample;
};

// Batches read and augmented as `config` says.
absl::StatusOr<std::unique_ptr<BatchStream>> OpenBatches(const RunConfig& config,
                                                         BatchRequest request);

}  // namespace albef

#endif  // ALBEF_DATALOADER_DATASET_H_
