// Between LibTorch's tensors and those of the file formats.
#ifndef ALBEF_MODEL_TENSOR_IO_H_
#define ALBEF_MODEL_TENSOR_IO_H_

#include <torch/types.h>

#include "formats/tensor.h"

namespace albef {

at::ScalarType ToScalarType(DType dtype);

// A type that files cannot hold (complex, quantised …) fails a TORCH_CHECK.
DType ToDType(at::ScalarType type);

// A copy in CPU memory.
torch::Tensor CopyTensor(const TensorView& view);

// A view of a contiguous CPU tensor, valid as long as its storage.
TensorView ViewTensor(const torch::Tensor& tensor);

}  // namespace albef

#endif  // ALBEF_MODEL_TENSOR_IO_H_
