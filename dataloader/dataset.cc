#include "dataloader/dataset.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_transform.h"
#include "dataloader/indexed_samples.h"

namespace albef {
namespace {

absl::StatusOr<std::shared_ptr<const ImageLoader>> MakeImageLoader(const RunConfig& config) {
  const int image_res = static_cast<int>(config.image_res);
  if (!config.data.augment) {
    ASSIGN_OR_RETURN(auto loader, EvaluationImageLoader::Create(
                                      {.image_res = image_res, .compat = AugmentCompat(config)}));
    return std::make_shared<const EvaluationImageLoader>(std::move(loader));
  }
  ASSIGN_OR_RETURN(auto loader, TrainingImageLoader::Create(
                                    {.image_res = image_res, .compat = AugmentCompat(config)}));
  return std::make_shared<const TrainingImageLoader>(std::move(loader));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const WordPieceTokenizer>> LoadTokenizer(const RunConfig& config) {
  if (!config.tokenizer.vocab) {
    return absl::InvalidArgumentError(
        "tokenizer.vocab is missing: name the vocabulary, for BERT's the file vocab.txt of "
        "bert-base-uncased");
  }
  const std::filesystem::path path = DataPath(config, *config.tokenizer.vocab);
  ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Load(path));
  const std::optional<int64_t>& vocab_size = config.bert_config.vocab_size;
  if (vocab_size && *vocab_size != vocabulary.size()) {
    return absl::InvalidArgumentError(fmt::format(
        "bert_config.vocab_size is {}, but {} has {} tokens; use the vocabulary the model was made "
        "for, or vocab_size: auto for a new one",
        *vocab_size, path.string(), vocabulary.size()));
  }
  return std::make_shared<const WordPieceTokenizer>(std::move(vocabulary));
}

ImageCompat AugmentCompat(const RunConfig& config) {
  return config.data.augment_compat == RunConfig::AugmentCompat::kOfficial
             ? ImageCompat::kOfficial
             : ImageCompat::kCorrected;
}

IndexOptions IndexingOf(const RunConfig& config) {
  IndexOptions options;
  if (config.data.index_dir) options.directory = DataPath(config, *config.data.index_dir);
  options.num_threads = static_cast<int>(config.data.num_threads);
  return options;
}

absl::StatusOr<Dataset> Dataset::Load(RunConfig& config,
                                      std::optional<std::filesystem::path> index_fallback) {
  Dataset dataset;
  ASSIGN_OR_RETURN(dataset.tokenizer, LoadTokenizer(config));
  config.bert_config.vocab_size = dataset.tokenizer->vocabulary().size();
  IndexOptions indexing = IndexingOf(config);
  indexing.fallback_directory = std::move(index_fallback);
  indexing.notify = [](std::string_view event) { spdlog::info("index {}", event); };
  ASSIGN_OR_RETURN(const std::vector<std::filesystem::path> train_files, TrainFiles(config));
  ASSIGN_OR_RETURN(IndexedSamples train,
                   IndexedSamples::Open(train_files, config.data.root, indexing));
  dataset.train = std::make_shared<const IndexedSamples>(std::move(train));
  if (config.eval.file) {
    const std::filesystem::path eval_file = DataPath(config, *config.eval.file);
    ASSIGN_OR_RETURN(const IndexedSamples source,
                     IndexedSamples::Open({&eval_file, 1}, config.data.root, indexing));
    ASSIGN_OR_RETURN(dataset.eval,
                     EvalSet::Create(source, *dataset.tokenizer,
                                     {.max_words = static_cast<int>(config.data.max_words),
                                      .text_length = static_cast<int>(std::min<int64_t>(
                                          30, config.bert_config.max_position_embeddings)),
                                      .max_images = config.eval.max_images}));
    if (dataset.eval->num_texts() == 0) {
      return absl::InvalidArgumentError(fmt::format("{} (eval.file): holds no captions",
                                                    DataPath(config, *config.eval.file).string()));
    }
  }
  return dataset;
}

absl::StatusOr<EpochPlan> PlanEpochs(const RunConfig& config, int64_t num_samples) {
  return EpochPlan::Create({.num_samples = num_samples,
                            .virtual_ranks = static_cast<int>(config.virtual_ranks.value_or(1)),
                            .batch_size = static_cast<int>(config.batch_size)});
}

absl::StatusOr<std::unique_ptr<BatchStream>> OpenBatches(const RunConfig& config,
                                                         BatchRequest request) {
  BatchStream::Options options;
  options.source = std::move(request.source);
  options.tokenizer = std::move(request.tokenizer);
  ASSIGN_OR_RETURN(options.image_loader, MakeImageLoader(config));
  options.image_res = static_cast<int>(config.image_res);
  options.seed = config.seed;
  options.plan = request.plan;
  options.virtual_rank_begin = request.virtual_rank_begin;
  options.virtual_rank_end =
      request.virtual_rank_end.value_or(request.plan.value().virtual_ranks());
  options.start_iteration = request.start_iteration;
  options.first_virtual_ranks = std::move(request.first_virtual_ranks);
  options.end_iteration = request.end_iteration;
  options.num_threads = static_cast<int>(config.data.num_threads);
  options.prefetch_batches = static_cast<int>(config.data.prefetch_batches);
  options.max_words = static_cast<int>(config.data.max_words);
  options.max_text_length = static_cast<int>(config.data.max_text_length);
  options.mlm_probability = config.mlm_probability;
  options.max_bad_fraction = config.data.max_bad_fraction;
  options.on_bad_sample = std::move(request.on_bad_sample);
  return BatchStream::Create(std::move(options));
}

}  // namespace albef
