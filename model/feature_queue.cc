#include "model/feature_queue.h"

#include <torch/utils.h>

#include <algorithm>

namespace albef {

FeatureQueue::FeatureQueue(torch::Tensor image_EQ, torch::Tensor text_EQ, torch::Tensor pointer)
    : image_EQ_(std::move(image_EQ)),
      text_EQ_(std::move(text_EQ)),
      pointer_buffer_(std::move(pointer)) {
  TORCH_CHECK(image_EQ_.dim() == 2 && image_EQ_.sizes() == text_EQ_.sizes() && size() > 0,
              "queues: expected two of shape (E,Q), got ", image_EQ_.sizes(), " and ",
              text_EQ_.sizes());
  ReadPointer();
}

void FeatureQueue::ReadPointer() {
  const auto pointer = pointer_buffer_.item<int64_t>();
  TORCH_CHECK(pointer >= 0 && pointer < size(), "queue_ptr is ", pointer, ", outside the queue of ",
              size(), " columns");
  pointer_ = pointer;
}

void FeatureQueue::Enqueue(const torch::Tensor& image_NE, const torch::Tensor& text_NE) {
  const int64_t num_features = image_NE.size(0);
  TORCH_CHECK(image_NE.dim() == 2 && image_NE.size(1) == image_EQ_.size(0) &&
                  image_NE.sizes() == text_NE.sizes(),
              "queues: expected features of shape (N,", image_EQ_.size(0), "), got ",
              image_NE.sizes(), " and ", text_NE.sizes());
  torch::NoGradGuard no_grad;
  // Features that the same call would overwrite are left out.
  int64_t next = std::max<int64_t>(0, num_features - size());
  int64_t column = (pointer_ + next) % size();
  while (next < num_features) {
    const int64_t count = std::min(num_features - next, size() - column);
    image_EQ_.narrow(1, column, count).copy_(image_NE.narrow(0, next, count).t());
    text_EQ_.narrow(1, column, count).copy_(text_NE.narrow(0, next, count).t());
    next += count;
    column = (column + count) % size();
  }
  pointer_ = (pointer_ + num_features) % size();
  pointer_buffer_.fill_(pointer_);
}

}  // namespace albef
