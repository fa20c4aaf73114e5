// Recall of image–text retrieval from score matrices (spec §7, Retrieval: ranking).
//
// Pure functions; ties are broken by index, so results do not depend on the order of a sort.
#ifndef ALBEF_WORKER_RETRIEVAL_METRICS_H_
#define ALBEF_WORKER_RETRIEVAL_METRICS_H_

#include <torch/types.h>

#include <cstdint>
#include <span>

namespace albef {

// Shares of queries in [0, 1] whose best correct answer is among the first 1, 5, 10.
struct Recall {
  double at_1 = 0;
  double at_5 = 0;
  double at_10 = 0;
};

// Queries are the rows of `score_QC` (float, CPU), candidates its columns. Candidate c is correct
// for query q when candidate_group[c] == query_group[q]; every query needs a correct candidate.
Recall RecallFromScores(const torch::Tensor& score_QC, std::span<const int64_t> query_group,
                        std::span<const int64_t> candidate_group);

// What guessing gives: the expected recall of a random order.
Recall ChanceRecall(std::span<const int64_t> query_group, std::span<const int64_t> candidate_group);

}  // namespace albef

#endif  // ALBEF_WORKER_RETRIEVAL_METRICS_H_
