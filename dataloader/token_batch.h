// Token sequences of different lengths as one padded matrix.
#ifndef ALBEF_DATALOADER_TOKEN_BATCH_H_
#define ALBEF_DATALOADER_TOKEN_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

namespace albef {

// B rows of T ids, row-major.
struct TokenBatch {
  int text_length = 0;  // T
  std::vector<int64_t> input_ids_BT;
  std::vector<int64_t>
      attention_mask_BT;  // 0 on padding, 1 elsewhere: also where the text says [PAD]
};

// Pads rows on the right to `text_length`, which must not be below the longest row.
TokenBatch PadTokens(std::span<const std::span<const int64_t>> rows, int64_t pad_id,
                     int text_length);

// Pads to the longest row.
TokenBatch PadTokens(std::span<const std::span<const int64_t>> rows, int64_t pad_id);

}  // namespace albef

#endif  // ALBEF_DATALOADER_TOKEN_BATCH_H_
