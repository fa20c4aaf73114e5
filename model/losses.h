// The losses of pretraining in fused form (spec §3, §8.B): soft and hard targets are never written
// down as dense matrices, and the gradient of the scores is made in the forward pass.
//
// Letters: B pairs, E projection, Q queue, N rows, V classes.
#ifndef ALBEF_MODEL_LOSSES_H_
#define ALBEF_MODEL_LOSSES_H_

#include <torch/types.h>

namespace albef {

// Mean over rows of −Σ_v y_v log softmax(logits)_v with
// y = alpha · softmax(teacher_logits) + (1 − alpha) · one_hot(label).
// `teacher_logits_NV` gets no gradient and may be undefined when alpha is 0. No rows: 0, with zero
// gradients.
torch::Tensor SoftHardCrossEntropy(const torch::Tensor& logits_NV,
                                   const torch::Tensor& teacher_logits_NV,
                                   const torch::Tensor& label_N, double alpha);

// One direction of the image-text contrastive loss. The candidates of each query are the batch's
// keys, own key first in rank, then the queue.
struct ContrastiveInput {
  torch::Tensor query_BE;          // student
  torch::Tensor teacher_query_BE;  // the same samples seen by the teacher
  torch::Tensor key_BE;            // the other modality seen by the teacher
  torch::Tensor queue_EQ;
  torch::Tensor temperature;  // 0-d
  double alpha = 0;
};

// Scores in the order [batch | queue], detached. The teacher's are undefined when alpha is 0.
struct ContrastiveScores {
  torch::Tensor student_BC;
  torch::Tensor teacher_BC;
};

// Differentiable in query_BE and temperature. Writes what it compared to `scores`.
torch::Tensor ContrastiveLoss(const ContrastiveInput& input, ContrastiveScores& scores);

// For each row an index of another column, drawn with probability softmax(scores) without the
// diagonal, in one batched draw on the device (Gumbel-max: no host wait, no underflow, and scores
// that are not finite give some index instead of an error). Uses the device's default generator.
torch::Tensor DrawHardNegatives(const torch::Tensor& scores_BB);

}  // namespace albef

#endif  // ALBEF_MODEL_LOSSES_H_
