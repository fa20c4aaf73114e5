// What one virtual rank trains on in one iteration.
//
// Letters: B batch, H W image rows and columns, C channels, T text tokens, N masked tokens.
#ifndef ALBEF_DATALOADER_BATCH_H_
#define ALBEF_DATALOADER_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

namespace albef {

// All vectors are row-major; a plain value but for `image_BHWC`, which belongs to the stream.
struct Batch {
  int64_t iteration = 0;
  int virtual_rank = 0;
  int64_t epoch = 0;
  int batch_size = 0;
  int image_res = 0;    // H = W, pixels
  int text_length = 0;  // T, that of the longest caption of this batch, [CLS] included
  std::span<const uint8_t> image_BHWC;  // RGB, not normalised
  std::vector<int64_t> input_ids_BT;
  std::vector<int64_t> attention_mask_BT;  // 0 on padding, 1 elsewhere
  std::vector<int64_t> mlm_input_ids_BT;   // input_ids_BT with some tokens replaced
  std::vector<int64_t> masked_index_N;     // b * T + t of the tokens to predict, ascending
  std::vector<int64_t> masked_label_N;     // their original ids
  std::vector<int64_t> sample_index_B;     // of the samples read, substitutes included
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_BATCH_H_
