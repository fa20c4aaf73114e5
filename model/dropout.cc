#include "model/dropout.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <mutex>

#include "common/random.h"
#include "common/simd.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Elements that share a key, and the least that a thread is given.
constexpr int64_t kBlockSize = 1 << 14;

struct Key {
  uint32_t before;
  uint32_t between;
};

// Of 2^31 equally likely numbers `drop_below` mean zero; `scale` is for the others.
struct Law {
  int32_t drop_below;
  double scale;
};

// A hash of 32 bits in two rounds (Wellons, "Prospecting for Hash Functions": lowbias32) with a key
// before each.
inline int32_t Draw31(int32_t index, Key key) {
  uint32_t x = static_cast<uint32_t>(index) + key.before;
  x = (x ^ (x >> 16)) * 0x7feb352dU;
  x ^= key.between;
  x = (x ^ (x >> 15)) * 0x846ca68bU;
  return static_cast<int32_t>((x ^ (x >> 16)) >> 1);
}

ALBEF_SIMD_CLONES void DropBlock(const float* x, float* y, int32_t size, Key key, Law law) {
  const auto scale = static_cast<float>(law.scale);
  for (int32_t i = 0; i < size; ++i) {
    y[i] = x[i] * (Draw31(i, key) < law.drop_below ? 0.0F : scale);
  }
}

template <typename T>
void DropBlock(const T* x, T* y, int32_t size, Key key, Law law) {
  for (int32_t i = 0; i < size; ++i) {
    y[i] = static_cast<T>(x[i] * (Draw31(i, key) < law.drop_below ? T(0) : T(law.scale)));
  }
}

template <typename T>
void DropBlocks(const torch::Tensor& x, torch::Tensor& y, uint64_t seed, Law law) {
  const T* from = x.const_data_ptr<T>();
  T* to = y.mutable_data_ptr<T>();
  const int64_t size = x.numel();
  at::parallel_for(0, at::divup(size, kBlockSize), 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      RandomStream keys(seed, RandomPurpose::kDropout, static_cast<uint64_t>(block));
      const Key key{.before = keys.Next32(), .between = keys.Next32()};
      const int64_t begin = block * kBlockSize;
      DropBlock(from + begin, to + begin, static_cast<int32_t>(std::min(kBlockSize, size - begin)),
                key, law);
    }
  });
}

torch::Tensor Drop(const torch::Tensor& x, double probability, uint64_t seed) {
  const Law law{.drop_below = static_cast<int32_t>(std::lround(std::ldexp(probability, 31))),
                .scale = 1.0 / (1.0 - probability)};
  const torch::Tensor from = x.contiguous();
  torch::Tensor to = at::empty_like(from);
  switch (x.scalar_type()) {
    case at::kFloat:
      DropBlocks<float>(from, to, seed, law);
      break;
    case at::kDouble:
      DropBlocks<double>(from, to, seed, law);
      break;
    case at::kBFloat16:
      DropBlocks<at::BFloat16>(from, to, seed, law);
      break;
    default:
      TORCH_CHECK(false, "dropout: expected float32, float64 or bfloat16, got ", x.scalar_type());
  }
  return to;
}

uint64_t DrawSeed() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, double probability,
                          int64_t seed) {
    context->saved_data["probability"] = probability;
    context->saved_data["seed"] = seed;
    return Drop(x, probability, static_cast<uint64_t>(seed));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {Drop(gradients[0], context->saved_data["probability"].toDouble(),
                 static_cast<uint64_t>(context->saved_data["seed"].toInt())),
            {},
            {}};
  }
};

}  // namespace

torch::Tensor Dropout(const torch::Tensor& x, double probability, bool training) {
  if (!training || probability == 0 || !x.is_cpu() || probability == 1) {
    return at::dropout(x, probability, training);
  }
  return DropoutFunction::apply(x, probability, static_cast<int64_t>(DrawSeed()));
}

}  // namespace albef
