#include "worker/gate.h"

#include <cmath>
#include <map>
#include <utility>

#include "common/majority.h"

namespace albef {
namespace {

// Halves of a hash are integers that a double holds exactly.
using HashWords = std::pair<double, double>;
constexpr int64_t kHashColumn = 6;

std::optional<StateDifference> CompareStates(const torch::Tensor& records,
                                             std::span<const Slice> slices) {
  std::map<HashWords, std::vector<int>> ranks_by_hash;
  for (size_t rank = 0; rank < slices.size(); ++rank) {
    const double* words =
        records.data_ptr<double>() + slices[rank].ranks.begin * kGateWords + kHashColumn;
    ranks_by_hash[{words[0], words[1]}].push_back(static_cast<int>(rank));
  }
  if (ranks_by_hash.size() <= 1) return std::nullopt;
  return StateDifference{.minority_ranks = MinorityRanks(ranks_by_hash)};
}

}  // namespace

torch::Tensor GateRecords(const std::vector<torch::Tensor>& losses_N3,
                          const torch::Tensor& non_finite, const torch::Tensor& temperature,
                          uint32_t flags, const torch::Tensor& state_hash) {
  const torch::Tensor losses = torch::stack(losses_N3).to(torch::kDouble);
  const auto column = [&](const torch::Tensor& value) {
    return value.detach().to(torch::kDouble).reshape({1, 1}).expand({losses.size(0), 1});
  };
  const torch::Tensor raised =
      torch::full({losses.size(0), 1}, static_cast<double>(flags), losses.options());
  constexpr int64_t kHalf = 0xFFFFFFFF;
  const torch::Tensor hash = state_hash.to(losses.device());
  return torch::cat(
      {losses, column(non_finite), column(temperature), raised,
       column(hash.bitwise_right_shift(32).bitwise_and(kHalf)), column(hash.bitwise_and(kHalf))},
      1);
}

GateDecision Decide(int64_t iteration, const torch::Tensor& records_VW,
                    std::span<const Slice> slices) {
  TORCH_CHECK(records_VW.dim() == 2 && records_VW.size(1) == kGateWords,
              "gate: expected records of ", kGateWords, " words, got ", records_VW.sizes());
  const torch::Tensor records = records_VW.cpu().contiguous();
  const torch::Tensor mean = records.narrow(1, 0, 3).mean(0);
  GateDecision decision{.iteration = iteration,
                        .committed = true,
                        .loss_mlm = mean[0].item<double>(),
                        .loss_itc = mean[1].item<double>(),
                        .loss_itm = mean[2].item<double>(),
                        .temperature = records[0][4].item<double>()};
  for (int64_t v = 0; v < records.size(0); ++v) {
    const double* words = records.data_ptr<double>() + v * kGateWords;
    decision.committed &= words[3] == 0;
    decision.flags |= static_cast<uint32_t>(words[5]);
  }
  decision.committed &= std::isfinite(decision.loss_mlm + decision.loss_itc + decision.loss_itm);
  decision.difference = CompareStates(records, slices);
  decision.committed &= !decision.difference.has_value();
  return decision;
}

}  // namespace albef
