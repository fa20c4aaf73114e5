#include "dataloader/token_batch.h"

#include <algorithm>

namespace albef {

TokenBatch PadTokens(std::span<const std::span<const int64_t>> rows, int64_t pad_id,
                     int text_length) {
  const size_t width = static_cast<size_t>(text_length);
  TokenBatch batch{.text_length = text_length,
                   .input_ids_BT = std::vector<int64_t>(rows.size() * width, pad_id),
                   .attention_mask_BT = std::vector<int64_t>(rows.size() * width, 0)};
  for (size_t b = 0; b < rows.size(); ++b) {
    const auto begin = static_cast<std::ptrdiff_t>(b * width);
    std::copy(rows[b].begin(), rows[b].end(), batch.input_ids_BT.begin() + begin);
    std::fill_n(batch.attention_mask_BT.begin() + begin, rows[b].size(), 1);
  }
  return batch;
}

TokenBatch PadTokens(std::span<const std::span<const int64_t>> rows, int64_t pad_id) {
  size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  return PadTokens(rows, pad_id, static_cast<int>(longest));
}

}  // namespace albef
