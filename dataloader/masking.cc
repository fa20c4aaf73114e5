#include "dataloader/masking.h"

namespace albef {

MaskedTokens MaskTokens(std::span<const int64_t> input_ids, const MaskingOptions& options,
                        RandomStream random) {
  MaskedTokens masked;
  masked.input_ids.assign(input_ids.begin(), input_ids.end());
  for (size_t i = 0; i < input_ids.size(); ++i) {
    const int64_t id = input_ids[i];
    if (id == options.pad_id || id == options.cls_id) continue;
    if (!random.Bernoulli(options.probability)) continue;
    masked.masked_index_N.push_back(static_cast<int64_t>(i));
    masked.masked_label_N.push_back(id);
    const double action = random.Uniform();
    if (action < 0.8) {
      masked.input_ids[i] = options.mask_id;
    } else if (action < 0.9) {
      masked.input_ids[i] =
          static_cast<int64_t>(random.Below(static_cast<uint64_t>(options.vocab_size)));
    }
  }
  return masked;
}

}  // namespace albef
