#include "worker/gate.h"

#include <cmath>

namespace albef {

torch::Tensor GateRecords(const std::vector<torch::Tensor>& losses_N3,
                          const torch::Tensor& non_finite, const torch::Tensor& temperature,
                          uint32_t flags) {
  const torch::Tensor losses = torch::stack(losses_N3).to(torch::kDouble);
  const auto column = [&](const torch::Tensor& value) {
    return value.detach().to(torch::kDouble).reshape({1, 1}).expand({losses.size(0), 1});
  };
  const torch::Tensor raised =
      torch::full({losses.size(0), 1}, static_cast<double>(flags), losses.options());
  return torch::cat({losses, column(non_finite), column(temperature), raised}, 1);
}

GateDecision Decide(int64_t iteration, const torch::Tensor& records_VW) {
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
  return decision;
}

}  // namespace albef
