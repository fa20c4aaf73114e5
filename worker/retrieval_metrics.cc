#include "worker/retrieval_metrics.h"

#include <unordered_map>

namespace albef {

Recall RecallFromScores(const torch::Tensor& score_QC, std::span<const int64_t> query_group,
                        std::span<const int64_t> candidate_group) {
  const int64_t num_queries = static_cast<int64_t>(query_group.size());
  const int64_t num_candidates = static_cast<int64_t>(candidate_group.size());
  TORCH_CHECK(
      score_QC.dim() == 2 && score_QC.size(0) == num_queries && score_QC.size(1) == num_candidates,
      "RecallFromScores: expected scores of shape ", num_queries, "x", num_candidates, ", got ",
      score_QC.sizes());
  const torch::Tensor scores = score_QC.to(torch::kCPU, torch::kFloat).contiguous();
  Recall recall;
  for (int64_t q = 0; q < num_queries; ++q) {
    const float* row = scores.data_ptr<float>() + q * num_candidates;
    const auto is_correct = [&](int64_t c) {
      return candidate_group[static_cast<size_t>(c)] == query_group[static_cast<size_t>(q)];
    };
    int64_t best = -1;
    for (int64_t c = 0; c < num_candidates; ++c) {
      if (is_correct(c) && (best < 0 || row[c] > row[best])) best = c;
    }
    TORCH_CHECK(best >= 0, "RecallFromScores: query ", q, " has no correct candidate");
    int64_t rank = 0;
    for (int64_t c = 0; c < num_candidates; ++c) {
      // Not "greater": a NaN score must count against the model.
      if (c != best && (!(row[c] <= row[best]) || (row[c] == row[best] && c < best))) ++rank;
    }
    recall.at_1 += rank < 1;
    recall.at_5 += rank < 5;
    recall.at_10 += rank < 10;
  }
  const double scale = num_queries > 0 ? 1.0 / static_cast<double>(num_queries) : 0.0;
  return {recall.at_1 * scale, recall.at_5 * scale, recall.at_10 * scale};
}

Recall ChanceRecall(std::span<const int64_t> query_group,
                    std::span<const int64_t> candidate_group) {
  std::unordered_map<int64_t, int64_t> correct;
  for (int64_t group : candidate_group) ++correct[group];
  const int64_t num_candidates = static_cast<int64_t>(candidate_group.size());
  // 1 − P(none of the first k is correct), drawing without replacement.
  const auto at = [&](int64_t k) {
    double sum = 0;
    for (int64_t group : query_group) {
      const int64_t wrong = num_candidates - correct[group];
      double none = 1;
      for (int64_t i = 0; i < k && i < num_candidates; ++i) {
        none *= static_cast<double>(std::max<int64_t>(0, wrong - i)) /
                static_cast<double>(num_candidates - i);
      }
      sum += 1 - none;
    }
    return query_group.empty() ? 0.0 : sum / static_cast<double>(query_group.size());
  };
  return {at(1), at(5), at(10)};
}

}  // namespace albef
