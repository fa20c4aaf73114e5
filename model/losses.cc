#include "model/losses.h"

#include <torch/autograd.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct LossAndGradient {
  torch::Tensor loss;
  torch::Tensor gradient_NV;  // of the loss with respect to the logits
};

struct MixedTargets {
  torch::Tensor teacher_logits_NV;  // undefined when alpha is 0
  torch::Tensor label_N;
  double alpha = 0;
};

// Without autograd.
LossAndGradient CrossEntropyWithGradient(const torch::Tensor& logits_NV,
                                         const MixedTargets& targets) {
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(logits_NV.size(0), 1));
  const double hard = 1 - targets.alpha;
  const torch::Tensor label_N1 = targets.label_N.unsqueeze(1);
  torch::Tensor log_probs_NV = at::log_softmax(logits_NV, 1);
  torch::Tensor loss = log_probs_NV.gather(1, label_N1).sum() * (-hard * scale);
  torch::Tensor teacher_NV;
  if (targets.alpha != 0) {
    teacher_NV = at::softmax(targets.teacher_logits_NV, 1);
    loss.sub_((teacher_NV * log_probs_NV).sum(), targets.alpha * scale);
  }
  torch::Tensor gradient_NV = log_probs_NV.exp_();
  if (targets.alpha != 0) gradient_NV.sub_(teacher_NV, targets.alpha);
  gradient_NV.scatter_add_(1, label_N1, torch::full_like(label_N1, -hard, gradient_NV.options()));
  return {loss, gradient_NV.mul_(scale)};
}

class SoftHardCrossEntropyFunction
    : public torch::autograd::Function<SoftHardCrossEntropyFunction> {
 public:
  // What gets no gradient stays in a struct: autograd takes no undefined tensors as arguments.
  static Variable forward(AutogradContext* context, const Variable& logits_NV,
                          const MixedTargets& targets) {
    const LossAndGradient result = CrossEntropyWithGradient(logits_NV, targets);
    context->save_for_backward({result.gradient_NV});
    return result.loss;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradient) {
    return {context->get_saved_variables()[0] * gradient[0], {}};
  }
};

// query · [key | queue] / temperature.
torch::Tensor Scores(const torch::Tensor& query_BE, const torch::Tensor& key_BE,
                     const torch::Tensor& queue_EQ, const torch::Tensor& temperature) {
  const int64_t batch = key_BE.size(0);
  const int64_t queue = queue_EQ.size(1);
  torch::Tensor scores_BC = torch::empty({query_BE.size(0), batch + queue}, query_BE.options());
  torch::Tensor batch_BB = scores_BC.narrow(1, 0, batch);
  torch::Tensor queue_BQ = scores_BC.narrow(1, batch, queue);
  at::mm_out(batch_BB, query_BE, key_BE.t());
  at::mm_out(queue_BQ, query_BE, queue_EQ);
  return scores_BC.div_(temperature);
}

class ContrastiveFunction : public torch::autograd::Function<ContrastiveFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& query_BE,
                          const Variable& temperature, const ContrastiveInput& input,
                          ContrastiveScores& scores) {
    scores.student_BC = Scores(query_BE, input.key_BE, input.queue_EQ, temperature);
    if (input.alpha != 0) {
      scores.teacher_BC = Scores(input.teacher_query_BE, input.key_BE, input.queue_EQ, temperature);
    }
    const int64_t batch = query_BE.size(0);
    const torch::Tensor own_B = torch::arange(batch, input.key_BE.options().dtype(at::kLong));
    const LossAndGradient result =
        CrossEntropyWithGradient(scores.student_BC, {scores.teacher_BC, own_B, input.alpha});
    // The score gradient is as wide as the queue; what is kept is as wide as the projection.
    const torch::Tensor& gradient_BC = result.gradient_NV;
    const torch::Tensor batch_BB = gradient_BC.narrow(1, 0, batch);
    const torch::Tensor queue_BQ = gradient_BC.narrow(1, batch, input.queue_EQ.size(1));
    const torch::Tensor query_gradient_BE =
        at::mm(queue_BQ, input.queue_EQ.t()).addmm_(batch_BB, input.key_BE).div_(temperature);
    const torch::Tensor temperature_gradient =
        (gradient_BC * scores.student_BC).sum().div_(temperature).neg_();
    context->save_for_backward({query_gradient_BE, temperature_gradient});
    return result.loss;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradient) {
    const variable_list saved = context->get_saved_variables();
    return {saved[0] * gradient[0], saved[1] * gradient[0], {}, {}};
  }
};

}  // namespace

torch::Tensor SoftHardCrossEntropy(const torch::Tensor& logits_NV,
                                   const torch::Tensor& teacher_logits_NV,
                                   const torch::Tensor& label_N, double alpha) {
  TORCH_CHECK(alpha == 0 || teacher_logits_NV.defined(), "alpha is ", alpha,
              ", but there are no teacher logits");
  return SoftHardCrossEntropyFunction::apply(logits_NV,
                                             MixedTargets{teacher_logits_NV, label_N, alpha});
}

torch::Tensor ContrastiveLoss(const ContrastiveInput& input, ContrastiveScores& scores) {
  return ContrastiveFunction::apply(input.query_BE, input.temperature, input, scores);
}

torch::Tensor DrawHardNegatives(const torch::Tensor& scores_BB) {
  TORCH_CHECK(scores_BB.size(0) > 1 && scores_BB.size(0) == scores_BB.size(1),
              "hard negatives come from the other pairs of the batch, which has ",
              scores_BB.size(0), ": batch_size must be at least 2");
  torch::Tensor noisy_BB = scores_BB.detach() - torch::empty_like(scores_BB).exponential_().log_();
  noisy_BB.diagonal().fill_(-std::numeric_limits<double>::infinity());
  return noisy_BB.argmax(1);
}

}  // namespace albef
