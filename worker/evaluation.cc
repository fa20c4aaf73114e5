#include "worker/evaluation.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "common/status_macros.h"
#include "dataloader/image_transform.h"
#include "worker/device_batch.h"

namespace albef {
namespace {

// Scores of pairs that were not ranked again, below every matching score (the authors' value).
constexpr double kNotRanked = -100.0;

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
  absl::Status CheckCancelled() const {
    if (options_.cancelled && options_.cancelled()) {
      return absl::CancelledError("evaluation interrupted");
    }
    return absl::OkStatus();
  }

  absl::Status EncodeImages();
  absl::Status EncodeTexts();
  absl::StatusOr<std::vector<uint8_t>> LoadImages(int64_t begin, int64_t end) const;
  absl::StatusOr<torch::Tensor> RankTextsAgain(const torch::Tensor& similarity_IR);
  absl::StatusOr<torch::Tensor> RankImagesAgain(const torch::Tensor& similarity_IR);
  // Matching scores of the texts `row_R` with the images `image_R`, pair by pair.
  torch::Tensor MatchPairs(const torch::Tensor& image_R, const torch::Tensor& row_R);

  Albef& model_;
  const EvalSet& set_;
  const ImageLoader& loader_;
  const EvaluationOptions& options_;

  std::vector<int64_t> images_;  // those with a text, indices into the set
  torch::Tensor image_embeds_IPD_, image_feat_IE_;
  torch::Tensor text_embeds_RTD_, text_feat_RE_, text_mask_RT_;
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
    RETURN_IF_ERROR(CheckCancelled());
    const int64_t end = std::min(count, begin + options_.batch_size);
    ASSIGN_OR_RETURN(const std::vector<uint8_t> image_BHWC, LoadImages(begin, end));
    ImageEncoding encoding =
        model_->EncodeImage(NormalizeImages(image_BHWC, options_.image_res, options_.device));
    embeds.push_back(std::move(encoding.embeds_BPD));
    feats.push_back(std::move(encoding.feat_BE));
  }
  image_embeds_IPD_ = torch::cat(embeds);
  image_feat_IE_ = torch::cat(feats);
  return absl::OkStatus();
}

absl::Status Evaluation::EncodeTexts() {
  std::vector<torch::Tensor> embeds, feats;
  const int64_t shape_RT[] = {set_.num_texts(), set_.tokens.text_length};
  const torch::Tensor ids_RT = TokenTensor(set_.tokens.input_ids_BT, shape_RT, options_.device);
  text_mask_RT_ = TokenTensor(set_.tokens.attention_mask_BT, shape_RT, options_.device);
  for (int64_t begin = 0; begin < set_.num_texts(); begin += options_.batch_size) {
    RETURN_IF_ERROR(CheckCancelled());
    const int64_t end = std::min(set_.num_texts(), begin + options_.batch_size);
    TextEncoding encoding =
        model_->EncodeText(ids_RT.slice(0, begin, end), text_mask_RT_.slice(0, begin, end));
    embeds.push_back(std::move(encoding.embeds_BTD));
    feats.push_back(std::move(encoding.feat_BE));
  }
  text_embeds_RTD_ = torch::cat(embeds);
  text_feat_RE_ = torch::cat(feats);
  return absl::OkStatus();
}

torch::Tensor Evaluation::MatchPairs(const torch::Tensor& image_R, const torch::Tensor& row_R) {
  const auto keys_values = model_->ProjectImage(image_embeds_IPD_.index_select(0, image_R));
  return model_
      ->MatchLogits(keys_values, text_embeds_RTD_.index_select(0, row_R),
                    text_mask_RT_.index_select(0, row_R))
      .select(1, 1)
      .to(torch::kFloat);
}

absl::StatusOr<torch::Tensor> Evaluation::RankTextsAgain(const torch::Tensor& similarity_IR) {
  torch::Tensor score_IR = torch::full_like(similarity_IR, kNotRanked);
  const int64_t k = std::min(options_.rerank_top_k, similarity_IR.size(1));
  const torch::Tensor top_IK = std::get<1>(similarity_IR.topk(k, 1));
  for (int64_t image = 0; image < score_IR.size(0); ++image) {
    RETURN_IF_ERROR(CheckCancelled());
    // One image's keys and values serve all of its candidates.
    const auto keys_values = model_->ProjectImage(image_embeds_IPD_.slice(0, image, image + 1));
    for (int64_t begin = 0; begin < k; begin += options_.batch_size) {
      const torch::Tensor rows = top_IK[image].slice(0, begin, begin + options_.batch_size);
      const torch::Tensor scores =
          model_
              ->MatchLogits(keys_values, text_embeds_RTD_.index_select(0, rows),
                            text_mask_RT_.index_select(0, rows))
              .select(1, 1);
      score_IR[image].index_copy_(0, rows, scores.to(torch::kFloat));
    }
  }
  return score_IR;
}

absl::StatusOr<torch::Tensor> Evaluation::RankImagesAgain(const torch::Tensor& similarity_IR) {
  const torch::Tensor similarity_RI = similarity_IR.t().contiguous();
  torch::Tensor score_RI = torch::full_like(similarity_RI, kNotRanked);
  const int64_t k = std::min(options_.rerank_top_k, similarity_RI.size(1));
  const torch::Tensor top_RK = std::get<1>(similarity_RI.topk(k, 1));
  const torch::Tensor image_N = top_RK.flatten();
  const torch::Tensor row_N =
      torch::arange(similarity_RI.size(0), image_N.options()).repeat_interleave(k);
  std::vector<torch::Tensor> scores;
  for (int64_t begin = 0; begin < image_N.size(0); begin += options_.batch_size) {
    RETURN_IF_ERROR(CheckCancelled());
    const int64_t end = std::min(image_N.size(0), begin + options_.batch_size);
    scores.push_back(MatchPairs(image_N.slice(0, begin, end), row_N.slice(0, begin, end)));
  }
  score_RI.scatter_(1, top_RK, torch::cat(scores).view_as(top_RK));
  return score_RI;
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
  const torch::Tensor similarity_IR = image_feat_IE_.matmul(text_feat_RE_.t()).to(torch::kFloat);

  RetrievalResult result;
  result.num_images = static_cast<int64_t>(images_.size());
  result.num_texts = set_.num_texts();
  const std::vector<int64_t>& texts = set_.image_of_text;
  result.image_to_text = {.chance = ChanceRecall(images_, texts),
                          .itc = RecallFromScores(similarity_IR, images_, texts),
                          .itm = {}};
  result.text_to_image = {.chance = ChanceRecall(texts, images_),
                          .itc = RecallFromScores(similarity_IR.t(), texts, images_),
                          .itm = {}};
  ASSIGN_OR_RETURN(const torch::Tensor text_score_IR, RankTextsAgain(similarity_IR));
  result.image_to_text.itm = RecallFromScores(text_score_IR, images_, texts);
  ASSIGN_OR_RETURN(const torch::Tensor image_score_RI, RankImagesAgain(similarity_IR));
  result.text_to_image.itm = RecallFromScores(image_score_RI, texts, images_);
  return result;
}

}  // namespace

absl::StatusOr<RetrievalResult> EvaluateRetrieval(Albef& model, const EvalSet& set,
                                                  const ImageLoader& loader,
                                                  const EvaluationOptions& options) {
  return Evaluation(model, set, loader, options).Run();
}

}  // namespace albef
