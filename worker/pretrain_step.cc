#include "worker/pretrain_step.h"

#include <chrono>
#include <cmath>

#include "comm/tree.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

// Adds the time since the last lap to one phase after the other.
class Laps {
 public:
  void Add(double& phase_seconds) {
    const Clock::time_point now = Clock::now();
    phase_seconds += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  double total() const { return std::chrono::duration<double>(last_ - start_).count(); }

 private:
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

std::vector<torch::Tensor> GradientArenas(const Arena& arena, int virtual_ranks) {
  std::vector<torch::Tensor> arenas = {arena.gradients()};
  while (static_cast<int>(arenas.size()) < TreeStackDepth(virtual_ranks)) {
    arenas.push_back(arena.NewFlat());
  }
  return arenas;
}

// The host's copy of what the virtual ranks report.
struct GateRecord {
  bool finite = true;
  double loss_mlm = 0, loss_itc = 0, loss_itm = 0;
  double temperature = 0;
};

GateRecord ReadGate(const std::vector<torch::Tensor>& losses_V3, const torch::Tensor& non_finite,
                    const torch::Tensor& temperature) {
  const torch::Tensor mean_3 = torch::stack(losses_V3).to(torch::kDouble).mean(0);
  const torch::Tensor words = torch::cat({mean_3, non_finite.to(torch::kDouble).reshape(1),
                                          temperature.detach().to(torch::kDouble).reshape(1)})
                                  .cpu();
  const double* word = words.data_ptr<double>();
  GateRecord record{.finite = word[3] == 0,
                    .loss_mlm = word[0],
                    .loss_itc = word[1],
                    .loss_itm = word[2],
                    .temperature = word[4]};
  record.finite &= std::isfinite(word[0] + word[1] + word[2]);
  return record;
}

}  // namespace

PretrainStep::PretrainStep(TrainState* state, const Options& options)
    : state_(state),
      options_(options),
      num_gradient_arenas_(TreeStackDepth(options.virtual_ranks)),
      sum_(GradientArenas(state->arena(), options.virtual_ranks), options.virtual_ranks) {}

absl::StatusOr<PretrainStep::Report> PretrainStep::Run(const InputSource& inputs) {
  const int64_t iteration = state_->counters().iteration;
  const EpochPosition position = PositionOf(iteration, options_.steps_per_epoch);
  Report report{
      .iteration = iteration,
      .learning_rate = LearningRate(options_.schedule, position),
      .alpha = DistillationWeight(options_.distillation, position, options_.steps_per_epoch)};
  PhaseSeconds& seconds = report.seconds;
  Laps laps;
  Albef model = state_->model();
  Arena& arena = state_->arena();

  state_->Prologue();
  const torch::Tensor temperature = model->temperature.detach().clone();
  laps.Add(seconds.prologue);

  std::vector<torch::Tensor> losses_V3, image_feat_m, text_feat_m;
  for (int v = 0; v < options_.virtual_ranks; ++v) {
    absl::StatusOr<PretrainInputs> batch = inputs(v);
    if (!batch.ok()) {
      sum_.Reset();
      return batch.status();
    }
    report.num_pairs += batch->image_BCHW.size(0);
    laps.Add(seconds.data_wait);

    torch::manual_seed(RandomStream(options_.seed, RandomPurpose::kCompute,
                                    static_cast<uint64_t>(iteration), static_cast<uint32_t>(v))
                           .Next32());
    const PretrainOutput output = model->Forward(*batch, report.alpha);
    losses_V3.push_back(torch::stack(
        {output.loss_mlm.detach(), output.loss_itc.detach(), output.loss_itm.detach()}));
    image_feat_m.push_back(output.image_feat_m_BE);
    text_feat_m.push_back(output.text_feat_m_BE);
    laps.Add(seconds.forward);

    arena.BindGradients(sum_.Leaf());
    sum_.Leaf().zero_();
    (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
    laps.Add(seconds.backward);

    sum_.AddLeaf();
    laps.Add(seconds.reduction);
  }
  arena.BindGradients(sum_.Mean());
  const torch::Tensor image_feat_m_NE = torch::cat(image_feat_m);
  const torch::Tensor text_feat_m_NE = torch::cat(text_feat_m);
  laps.Add(seconds.reduction);

  const GateRecord gate = ReadGate(losses_V3, NonFiniteFlag(arena.gradients()), temperature);
  report.loss_mlm = gate.loss_mlm;
  report.loss_itc = gate.loss_itc;
  report.loss_itm = gate.loss_itm;
  report.temperature = gate.temperature;
  report.committed = gate.finite;
  laps.Add(seconds.gate);

  if (report.committed) {
    state_->Commit(report.learning_rate, image_feat_m_NE, text_feat_m_NE);
  } else {
    state_->Skip();
  }
  laps.Add(seconds.commit);
  seconds.total = laps.total();
  return report;
}

}  // namespace albef
