// The image and text queues of teacher features that serve as further negatives (spec §3 steps 5
// and 6): ring buffers of Q columns, written in virtual-rank order.
//
// The write position is kept on the host, so that an update asks for no host wait; the module's
// buffer `queue_ptr` follows it for checkpoints. Not thread-safe.
#ifndef ALBEF_MODEL_FEATURE_QUEUE_H_
#define ALBEF_MODEL_FEATURE_QUEUE_H_

#include <torch/types.h>

#include <cstdint>

namespace albef {

class FeatureQueue {
 public:
  // Buffers of the module: two of shape (E,Q) and an int64 of shape (1).
  FeatureQueue(torch::Tensor image_EQ, torch::Tensor text_EQ, torch::Tensor pointer);

  // Writes N pairs of features from the current position on, wrapping around; of more than Q pairs
  // the last Q stay. N need not divide Q.
  void Enqueue(const torch::Tensor& image_NE, const torch::Tensor& text_NE);

  // Takes the position from the buffer again, after something was loaded into it. TORCH_CHECK
  // failure if it is outside [0, Q).
  void ReadPointer();

  int64_t size() const { return image_EQ_.size(1); }
  int64_t pointer() const { return pointer_; }

 private:
  torch::Tensor image_EQ_;
  torch::Tensor text_EQ_;
  torch::Tensor pointer_buffer_;
  int64_t pointer_ = 0;
};

}  // namespace albef

#endif  // ALBEF_MODEL_FEATURE_QUEUE_H_
