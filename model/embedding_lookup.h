// Rows of an embedding table whose gradient holds only the rows that occur.
#ifndef ALBEF_MODEL_EMBEDDING_LOOKUP_H_
#define ALBEF_MODEL_EMBEDDING_LOOKUP_H_

#include <torch/types.h>

#include <cstdint>

namespace albef {

// The rows of `weight_VD` at `ids`, of any shape (…) → (…,D). The row of `padding_id` gets no
// gradient from here, whatever stands there.
//
// On CPUs the gradient is sparse: autograd adds its rows to the parameter's gradient where that
// lies, or before that to a copy of another gradient of the same backward. A row that occurs more
// than once is summed first, in the order of `ids`, so that every bit is that of a gradient as
// large as the table, which on GPUs it is.
torch::Tensor LookUp(const torch::Tensor& weight_VD, const torch::Tensor& ids, int64_t padding_id);

}  // namespace albef

#endif  // ALBEF_MODEL_EMBEDDING_LOOKUP_H_
