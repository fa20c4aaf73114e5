// What a configuration says about data, loaded: vocabulary, training pairs, evaluation set.
#ifndef ALBEF_WORKER_DATASET_H_
#define ALBEF_WORKER_DATASET_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "common/config.h"
#include "dataloader/batch_stream.h"
#include "dataloader/eval_set.h"
#include "dataloader/sample_order.h"
#include "dataloader/sample_source.h"
#include "dataloader/wordpiece.h"

namespace albef {

struct Dataset {
  std::shared_ptr<const WordPieceTokenizer> tokenizer;
  std::shared_ptr<const SampleSource> train;
  std::optional<EvalSet> eval;

  // Reads vocabulary and annotations, not yet images. Sets config.bert_config.vocab_size where it
  // is `auto`; INVALID_ARGUMENT where it differs from the vocabulary's.
  static absl::StatusOr<Dataset> Load(RunConfig& config);
};

// `config` must have virtual_ranks.
absl::StatusOr<EpochPlan> PlanEpochs(const RunConfig& config, const Dataset& dataset);

// The batches of all virtual ranks in [start_iteration, end_iteration).
absl::StatusOr<std::unique_ptr<BatchStream>> OpenBatches(
    const RunConfig& config, const Dataset& dataset, const EpochPlan& plan, int64_t start_iteration,
    int64_t end_iteration, std::function<void(const BadSample&)> on_bad_sample);

}  // namespace albef

#endif  // ALBEF_WORKER_DATASET_H_
