#include "worker/pretrain_step.h"

#include <torch/utils.h>

#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "comm/sum_reduction.h"
#include "comm/tree_reduction.h"
#include "common/fault_point.h"
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

int CountArenas(GradientOrder order, const Slice& slice) {
  return order == GradientOrder::kTree ? NumGradientArenas(slice) : 1;
}

// As failing memory would, in the lowest bit of a weight.
void FlipBit(const Arena& arena) {
  torch::NoGradGuard no_grad;
  const LayoutEntry& entry = arena.layout().entries().back();
  arena.parameters().narrow(0, entry.offset, 1).view(torch::kInt32).bitwise_xor_(1);
}

// What backward fills piece by piece.
std::vector<ElementRange> Regions(const Layout& layout) {
  std::vector<ElementRange> regions;
  for (const LayoutEntry& entry : layout.entries()) {
    regions.push_back({.offset = entry.offset, .numel = entry.num_values});
  }
  return regions;
}

std::unique_ptr<GradientReduction> MakeReduction(const PretrainStep::Options& options,
                                                 const Place& place, const Arena& arena,
                                                 int num_arenas, KeptSums kept) {
  std::vector<ElementRange> regions = Regions(arena.layout());
  if (options.gradient_order == GradientOrder::kTransport) {
    return std::make_unique<SumReduction>(place.communicator, place.slices, arena.gradients(),
                                          SumReduction::Options{.regions = std::move(regions)});
  }
  // The arena's gradients are one of those kept, if any are.
  if (kept.sums.empty()) kept.arenas = {arena.gradients()};
  while (static_cast<int>(kept.sums.size() + kept.arenas.size()) < num_arenas) {
    kept.arenas.push_back(arena.NewFlat());
  }
  return std::make_unique<TreeReduction>(
      place.communicator, place.slices, std::move(kept),
      TreeReduction::Options{.bucket_bytes = options.bucket_bytes, .regions = std::move(regions)});
}

// Rows of a tensor (rows_per_rank · V, …) that belong to each worker.
std::vector<torch::Tensor> RowsByWorker(const torch::Tensor& all, const std::vector<Slice>& slices,
                                        int64_t rows_per_rank) {
  std::vector<torch::Tensor> parts;
  for (const Slice& slice : slices) {
    parts.push_back(
        all.narrow(0, slice.ranks.begin * rows_per_rank, slice.ranks.size() * rows_per_rank));
  }
  return parts;
}

}  // namespace

Place Place::Alone(int virtual_ranks) {
  Place place;
  place.slices = *DivideRanks(virtual_ranks, 1);
  return place;
}

// One (rows, E) tensor per modality for all virtual ranks, complete once the works are done.
struct PretrainStep::Gathering {
  torch::Tensor image_NE, text_NE;
  std::vector<Work> works;
};

PretrainStep::PretrainStep(TrainState* state, Options options, Place place,
                           std::optional<UnfinishedIteration> unfinished)
    : state_(state),
      options_(std::move(options)),
      place_(std::move(place)),
      num_gradient_arenas_(
          CountArenas(options_.gradient_order, place_.slices[static_cast<size_t>(place_.rank)])),
      blocks_(state, {}),
      reduction_(MakeReduction(options_, place_, state->arena(), num_gradient_arenas_,
                               unfinished ? std::move(unfinished->gradients) : KeptSums())) {
  if (!unfinished) return;
  TORCH_CHECK(unfinished->iteration == state->counters().iteration, "step: expected work of ",
              state->counters().iteration, " to go on with, got that of ", unfinished->iteration);
  for (auto& [v, computed] : unfinished->computed) {
    if (reduction_->Keeps(v)) computed_[v] = std::move(computed);
  }
}

std::vector<int64_t> PretrainStep::MissingRanks() const {
  std::vector<int64_t> missing;
  for (int64_t v = place_.hosted().begin; v < place_.hosted().end; ++v) {
    if (!computed_.contains(v)) missing.push_back(v);
  }
  return missing;
}

std::optional<UnfinishedIteration> PretrainStep::TakeUnfinished() {
  if (computed_.empty()) return std::nullopt;
  std::optional<KeptSums> sums = reduction_->Take();
  if (!sums) return std::nullopt;
  return UnfinishedIteration{.iteration = state_->counters().iteration,
                             .computed = std::exchange(computed_, {}),
                             .gradients = *std::move(sums)};
}

PretrainStep::Gathering PretrainStep::GatherFeatures(
    const std::map<int64_t, Computed>& computed) const {
  Gathering gathering;
  const auto gather = [&](const char* name, torch::Tensor Computed::*features) {
    std::vector<torch::Tensor> own;
    for (const auto& [v, each] : computed) own.push_back(each.*features);
    const torch::Tensor hosted = torch::cat(own);
    if (!place_.communicator) return hosted;
    torch::Tensor all = torch::empty({options_.virtual_ranks * options_.batch_size, hosted.size(1)},
                                     hosted.options());
    const std::vector<torch::Tensor> parts = RowsByWorker(all, place_.slices, options_.batch_size);
    gathering.works.push_back(place_.communicator->AllGather(Lane::kMain, name, hosted, parts));
    return all;
  };
  gathering.image_NE = gather("image features", &Computed::image_feat_m_BE);
  gathering.text_NE = gather("text features", &Computed::text_feat_m_BE);
  return gathering;
}

torch::Tensor PretrainStep::HashOfState(int64_t block) const {
  if (place_.communicator == nullptr) return torch::zeros({}, torch::kLong);
  return compares_all_ ? blocks_.HashAll() : blocks_.Hash(block);
}

absl::StatusOr<torch::Tensor> PretrainStep::GatherGate(const torch::Tensor& records_NW) const {
  if (!place_.communicator) return records_NW;
  torch::Tensor records_VW =
      torch::empty({options_.virtual_ranks, kGateWords}, records_NW.options());
  const Work work = place_.communicator->AllGather(Lane::kMain, "gate", records_NW,
                                                   RowsByWorker(records_VW, place_.slices, 1));
  RETURN_IF_ERROR(work.Wait());
  return records_VW;
}

absl::StatusOr<PretrainStep::Report> PretrainStep::Run(const InputSource& inputs) {
  held_.reset();
  const int64_t iteration = state_->counters().iteration;
  const EpochPosition position = PositionOf(iteration, options_.steps_per_epoch);
  Report report;
  report.decision.iteration = iteration;
  report.learning_rate = LearningRate(options_.schedule, position);
  report.alpha = DistillationWeight(options_.distillation, position, options_.steps_per_epoch);
  report.num_pairs = options_.virtual_ranks * options_.batch_size;
  PhaseSeconds& seconds = report.seconds;
  Laps laps;
  Albef model = state_->model();
  Arena& arena = state_->arena();

  options_.enter(Section::kCompute);
  state_->Prologue();
  const torch::Tensor temperature = model->temperature.detach().clone();
  laps.Add(seconds.prologue);

  const std::vector<int64_t> missing = MissingRanks();
  std::map<int64_t, Computed> computed = std::exchange(computed_, {});
  std::optional<Gathering> gathering;
  if (missing.empty()) gathering = GatherFeatures(computed);
  for (const int64_t v : missing) {
    options_.enter(Section::kData);
    FaultPoint("data", iteration);
    absl::StatusOr<PretrainInputs> batch = inputs(v);
    if (!batch.ok()) {
      reduction_->Reset();
      return batch.status();
    }
    laps.Add(seconds.data_wait);

    options_.enter(Section::kCompute);
    FaultPoint("forward", iteration);
    torch::manual_seed(RandomStream(options_.seed, RandomPurpose::kCompute,
                                    static_cast<uint64_t>(iteration), static_cast<uint32_t>(v))
                           .Next32());
    const PretrainOutput output = model->Forward(*batch, report.alpha);
    computed[v] = {.losses_3 = torch::stack({output.loss_mlm.detach(), output.loss_itc.detach(),
                                             output.loss_itm.detach()}),
                   .image_feat_m_BE = output.image_feat_m_BE,
                   .text_feat_m_BE = output.text_feat_m_BE};
    if (v == missing.back()) gathering = GatherFeatures(computed);
    laps.Add(seconds.forward);

    const torch::Tensor& gradients = reduction_->BeginLeaf();
    arena.BindGradients(gradients);
    if (FaultPoint("gradient", iteration)) {
      gradients[0] = std::numeric_limits<float>::quiet_NaN();
    }
    {
      // The last virtual rank's gradients leave while backward is still at others of them.
      std::optional<Arena::GradientWatch> watch;
      if (place_.communicator != nullptr && v == missing.back()) {
        watch.emplace(arena,
                      [this](const LayoutEntry& entry) { reduction_->MarkReady(entry.offset); });
      }
      (output.loss_mlm + output.loss_itc + output.loss_itm).backward();
    }
    laps.Add(seconds.backward);

    reduction_->AddLeaf();
    laps.Add(seconds.reduction);
  }

  options_.enter(Section::kExchange);
  const absl::StatusOr<torch::Tensor> mean = reduction_->Finish();
  if (!mean.ok()) {
    computed_ = std::move(computed);
    return mean.status();
  }
  for (const Work& work : gathering->works) RETURN_IF_ERROR(work.Wait());
  arena.BindGradients(*mean);
  laps.Add(seconds.reduction);

  const Held held{.learning_rate = report.learning_rate,
                  .image_feat_m_NE = gathering->image_NE,
                  .text_feat_m_NE = gathering->text_NE};
  std::vector<torch::Tensor> losses_N3;
  for (const auto& [v, each] : computed) losses_N3.push_back(each.losses_3);
  const int64_t block = iteration % blocks_.size();
  const torch::Tensor records_NW =
      GateRecords(losses_N3, NonFiniteFlag(arena.gradients()), temperature, options_.raised_flags(),
                  HashOfState(block));
  FaultPoint("gate", iteration);
  const absl::StatusOr<torch::Tensor> records_VW = GatherGate(records_NW);
  if (!records_VW.ok()) {
    held_ = held;
    return records_VW.status();
  }
  report.decision = Decide(iteration, *records_VW, place_.slices);
  laps.Add(seconds.gate);
  if (report.decision.difference.has_value()) {
    report.decision.difference->where =
        compares_all_ ? std::string("the whole state") : blocks_.Describe(block);
    return report;
  }
  // What is not finite may come from a state that is damaged where nobody has looked yet.
  compares_all_ = !report.decision.committed;

  options_.enter(Section::kCompute);
  FaultPoint("commit", iteration);
  Commit(report.decision, held);
  if (FaultPoint("state", iteration)) FlipBit(arena);
  laps.Add(seconds.commit);
  report.total_seconds = laps.total();
  return report;
}

void PretrainStep::Apply(const GateDecision& decision) {
  TORCH_CHECK(held_, "step: expected a held iteration to apply a decision to");
  TORCH_CHECK(decision.iteration == state_->counters().iteration,
              "step: expected a decision about ", state_->counters().iteration, ", got one about ",
              decision.iteration);
  Commit(decision, *held_);
  held_.reset();
}

void PretrainStep::Commit(const GateDecision& decision, const Held& held) {
  if (decision.committed) {
    state_->Commit(held.learning_rate, held.image_feat_m_NE, held.text_feat_m_NE);
  } else {
    state_->Skip();
  }
}

}  // namespace albef
