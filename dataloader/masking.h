// Masked language modelling: which tokens are hidden and by what (spec §3.10).
#ifndef ALBEF_DATALOADER_MASKING_H_
#define ALBEF_DATALOADER_MASKING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"

namespace albef {

struct MaskingOptions {
  double probability = 0.15;  // that a token is to be predicted
  int64_t vocab_size = 0;
  int64_t pad_id = 0;
  int64_t cls_id = 0;
  int64_t mask_id = 0;
};

struct MaskedTokens {
  std::vector<int64_t> input_ids;       // as long as what came in
  std::vector<int64_t> masked_index_N;  // ascending places in it of the tokens to predict
  std::vector<int64_t> masked_label_N;  // what stood there
};

// Selects each token but [PAD] and [CLS] independently; a selected one becomes [MASK] in 80 % of
// the cases, a uniform draw from the whole vocabulary in 10 %, and stays in 10 %. Padding takes no
// draws, so its width does not change what is masked.
MaskedTokens MaskTokens(std::span<const int64_t> input_ids, const MaskingOptions& options,
                        RandomStream random);

}  // namespace albef

#endif  // ALBEF_DATALOADER_MASKING_H_
