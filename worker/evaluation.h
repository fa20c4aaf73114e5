// Image–text retrieval of a trained model: recall by contrastive similarity, and by matching score
// after the best candidates of each query are ranked again (spec §7, Retrieval: eval).
#ifndef ALBEF_WORKER_EVALUATION_H_
#define ALBEF_WORKER_EVALUATION_H_

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "dataloader/eval_set.h"
#include "dataloader/image_loader.h"
#include "model/albef.h"
#include "worker/retrieval_metrics.h"

namespace albef {

struct EvaluationOptions {
  int64_t image_res = 256;
  int64_t batch_size = 64;
  int64_t rerank_top_k = 128;
  int num_threads = 1;  // that decode images
  torch::Device device = torch::kCPU;
  // Asked between batches; true ends the evaluation with CANCELLED.
  std::function<bool()> cancelled;
};

struct RetrievalResult {
  struct Direction {
    Recall chance;
    Recall itc;  // by similarity
    Recall itm;  // re-ranked
  };
  Direction image_to_text;
  Direction text_to_image;
  int64_t num_images = 0;
  int64_t num_texts = 0;
};

// What the encoders make of I images and R texts.
struct EncodedPairs {
  torch::Tensor image_embeds_IPD, image_feat_IE;
  torch::Tensor text_embeds_RTD, text_feat_RE, text_mask_RT;
};

struct RetrievalScores {
  torch::Tensor similarity_IR;   // of the features, without the temperature
  torch::Tensor text_score_IR;   // matching scores of each image's best texts; all others are -100
  torch::Tensor image_score_RI;  // and of each text's best images
};

// The model must be in evaluation mode.
absl::StatusOr<RetrievalScores> ScoreRetrieval(Albef& model, const EncodedPairs& pairs,
                                               const EvaluationOptions& options);

// Images without a text are left out. The model's training mode is restored. An image that cannot
// be read is an error that names it: a recall over fewer images would not be comparable.
absl::StatusOr<RetrievalResult> EvaluateRetrieval(Albef& model, const EvalSet& set,
                                                  const ImageLoader& loader,
                                                  const EvaluationOptions& options);

}  // namespace albef

#endif  // ALBEF_WORKER_EVALUATION_H_
