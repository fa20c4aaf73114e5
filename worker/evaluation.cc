#include "worker/evaluation.h"

#include <torch/utils.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_transform.h"
#include "worker/device_batch.h"

namespace albef {
namespace {

// Scores of pairs that were not ranked again, below every matching score (the authors' value).
constexpr double kNotRanked = -100.0;

absl::Status CheckCancelled(const EvaluationOptions& options) {
  if (options.cancelled && options.cancelled()) {
    return absl::CancelledError("evaluation interrupted");
  }
  return absl::OkStatus();
}

// Marks the k largest of each row.
torch::Tensor Largest(const torch::Tensor& score_QC, int64_t k) {
  const torch::Tensor top_QK = std::get<1>(score_QC.topk(std::min(k, score_QC.size(1)), 1));
  return torch::zeros_like(score_QC, at::kBool).scatter_(1, top_QK, true);
}

// Matching scores of the pairs that are marked. An image's keys and values serve all of its texts.
absl::StatusOr<torch::Tensor> MatchMarked(Albef& model, const EncodedPairs& pairs,
                                          const torch::Tensor& marked_IR,
                                          const EvaluationOptions& options) {
  torch::Tensor score_IR = torch::full(marked_IR.sizes(), kNotRanked, pairs.text_feat_RE.options());
  for (int64_t image = 0; image < marked_IR.size(0); ++image) {
    const auto keys_values = model->ProjectImage(pairs.image_embeds_IPD.slice(0, image, image + 1));
    for (const torch::Tensor& rows :
         at::nonzero(marked_IR[image]).flatten().split(options.batch_size)) {
      RETURN_IF_ERROR(CheckCancelled(options));
      const torch::Tensor logits_R2 =
          model->MatchLogits(keys_values, pairs.text_embeds_RTD.index_select(0, rows),
                             pairs.text_mask_RT.index_select(0, rows));
      score_IR[image].index_copy_(0, rows, logits_R2.select(1, 1).to(score_IR.scalar_type()));
    }
  }
  return score_IR;
}

// Restores a module's mode when the scope ends.
class EvaluationMode {
 public:
  explicit EvaluationMode(Albef& model) : model_(model), was_training_(model->is_training()) {
    model_->eval();
  }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;
  ~EvaluationMode() { model_->train(was_training_); }

 private:
  Albef& model_;
  const bool was_training_;
};

class Evaluation {
 public:
  Evaluation(Albef& model, const EvalSet& set, const ImageLoader& loader,
             const EvaluationOptions& options)
      : model_(model), set_(set), loader_(loader), options_(options) {}

  absl::StatusOr<RetrievalResult> Run();

 private:
  absl::Status EncodeImages();
  absl::Status EncodeTexts();
  absl::StatusOr<std::vector<uint8_t>> LoadImages(int64_t begin, int64_t end) const;

  Albef& model_;
  const EvalSet& set_;
  const ImageLoader& loader_;
  const EvaluationOptions& options_;

  std::vector<int64_t> images_;  // those with a text, indices into the set
  EncodedPairs pairs_;
};

absl::StatusOr<std::vector<uint8_t>> Evaluation::LoadImages(int64_t begin, int64_t end) const {
  const size_t bytes = static_cast<size_t>(options_.image_res * options_.image_res * 3);
  std::vector<uint8_t> image_BHWC(static_cast<size_t>(end - begin) * bytes);
  std::atomic<int64_t> next = begin;
  std::mutex mutex;
  absl::Status first_error;
  const auto load = [&] {
    for (int64_t i = next++; i < end; i = next++) {
      const auto& path = set_.image_paths[static_cast<size_t>(images_[static_cast<size_t>(i)])];
      const absl::Status status = LoadImageFile(
          loader_, path, RandomStream(0, RandomPurpose::kImageAugmentation, 0),
          std::span(image_BHWC).subspan(static_cast<size_t>(i - begin) * bytes, bytes));
      if (!status.ok()) {
        const std::lock_guard lock(mutex);
        first_error.Update(status);
      }
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 1; i < options_.num_threads; ++i) threads.emplace_back(load);
  load();
  threads.clear();  // joins
  RETURN_IF_ERROR(first_error);
  return image_BHWC;
}

absl::Status Evaluation::EncodeImages() {
  std::vector<torch::Tensor> embeds, feats;
  const int64_t count = static_cast<int64_t>(images_.size());
  for (int64_t begin = 0; begin < count; begin += options_.batch_size) {
    RETURN_IF_ERROR(CheckCancelled(options_));
    const int64_t end = std::min(count, begin + options_.batch_size);
    ASSIGN_OR_RETURN(const std::vector<uint8_t> image_BHWC, LoadImages(begin, end));
    ImageEncoding encoding =
        model_->EncodeImage(NormalizeImages(image_BHWC, options_.image_res, options_.device));
    embeds.push_back(std::move(encoding.embeds_BPD));
    feats.push_back(std::move(encoding.feat_BE));
  }
  pairs_.image_embeds_IPD = torch::cat(embeds);
  pairs_.image_feat_IE = torch::cat(feats);
  return absl::OkStatus();
}

absl::Status Evaluation::EncodeTexts() {
  std::vector<torch::Tensor> embeds, feats;
  const int64_t shape_RT[] = {set_.num_texts(), set_.tokens.text_length};
  const torch::Tensor ids_RT = TokenTensor(set_.tokens.input_ids_BT, shape_RT, options_.device);
  pairs_.text_mask_RT = TokenTensor(set_.tokens.attention_mask_BT, shape_RT, options_.device);
  for (int64_t begin = 0; begin < set_.num_texts(); begin += options_.batch_size) {
    RETURN_IF_ERROR(CheckCancelled(options_));
    const int64_t end = std::min(set_.num_texts(), begin + options_.batch_size);
    TextEncoding encoding =
        model_->EncodeText(ids_RT.slice(0, begin, end), pairs_.text_mask_RT.slice(0, begin, end));
    embeds.push_back(std::move(encoding.embeds_BTD));
    feats.push_back(std::move(encoding.feat_BE));
  }
  pairs_.text_embeds_RTD = torch::cat(embeds);
  pairs_.text_feat_RE = torch::cat(feats);
  return absl::OkStatus();
}

absl::StatusOr<RetrievalResult> Evaluation::Run() {
  torch::NoGradGuard no_grad;
  const EvaluationMode mode(model_);
  for (int64_t i = 0; i < set_.num_images(); ++i) {
    if (!set_.texts_of_image[static_cast<size_t>(i)].empty()) images_.push_back(i);
  }
  if (images_.empty()) return absl::InvalidArgumentError("the evaluation set holds no pairs");
  RETURN_IF_ERROR(EncodeImages());
  RETURN_IF_ERROR(EncodeTexts());
  ASSIGN_OR_RETURN(const RetrievalScores scores, ScoreRetrieval(model_, pairs_, options_));

  RetrievalResult result;
  result.num_images = static_cast<int64_t>(images_.size());
  result.num_texts = set_.num_texts();
  const std::vector<int64_t>& texts = set_.image_of_text;
  result.image_to_text = {.chance = ChanceRecall(images_, texts),
                          .itc = RecallFromScores(scores.similarity_IR, images_, texts),
                          .itm = RecallFromScores(scores.text_score_IR, images_, texts)};
  result.text_to_image = {.chance = ChanceRecall(texts, images_),
                          .itc = RecallFromScores(scores.similarity_IR.t(), texts, images_),
                          .itm = RecallFromScores(scores.image_score_RI, texts, images_)};
  return result;
}

}  // namespace

absl::StatusOr<RetrievalScores> ScoreRetrieval(Albef& model, const EncodedPairs& pairs,
                                               const EvaluationOptions& options) {
  const torch::NoGradGuard no_grad;
  RetrievalScores scores;
  scores.similarity_IR = pairs.image_feat_IE.matmul(pairs.text_feat_RE.t());
  const torch::Tensor of_image_IR = Largest(scores.similarity_IR, options.rerank_top_k);
  const torch::Tensor of_text_IR = Largest(scores.similarity_IR.t(), options.rerank_top_k).t();
  // A pair may be among the best in both directions.
  ASSIGN_OR_RETURN(const torch::Tensor score_IR,
                   MatchMarked(model, pairs, of_image_IR.logical_or(of_text_IR), options));
  scores.text_score_IR = score_IR.masked_fill(of_image_IR.logical_not(), kNotRanked);
  scores.image_score_RI = score_IR.masked_fill(of_text_IR.logical_not(), kNotRanked).t();
  return scores;
}

absl::StatusOr<RetrievalResult> EvaluateRetrieval(Albef& model, const EvalSet& set,
                                                  const ImageLoader& loader,
                                                  const EvaluationOptions& options) {
  return Evaluation(model, set, loader, options).Run();
}

}  // namespace albef
